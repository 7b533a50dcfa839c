"""The slot a request is served in: matched to a flow, then seated, queued or refused.

    request ── FlowSchema ── exempt ──────────────────────────────> served
                    └── priority level: a seat is free ───────────> served
                             └── the flow's queue ── its turn ────> served
                                      └── full, or too late, or a level that does not queue ──> 429 with Retry-After

Long-running requests (watches, streams) are matched, not seated: they are bounded by their own buffers. Every request
takes one seat, also a LIST of many objects (Kubernetes estimates up to ten). Before the stored configuration is loaded
the one that clusters start with counts.

Metrics: apiserver_flowcontrol_*, as kube-apiserver names them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.api import errors
from cluster.apiserver import metrics
from cluster.apiserver.flowcontrol.levels import Level, Seats
from cluster.apiserver.flowcontrol.rules import Schema, in_order
from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry import bootstrap_flow
from cluster.registry.context import UserInfo

Object = dict[str, Any]

_REMEMBERED = 8192
_KINDS = ("readOnly", "mutating")
_SCHEMA_UID, _LEVEL_UID = "X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"


class _Counts:
    """What is under way of one FlowSchema at its level; read when metrics are asked for."""

    __slots__ = ("dispatched", "executing", "queued", "waited")

    def __init__(self, level: str, schema: str) -> None:
        self.executing = self.queued = 0
        self.dispatched = metrics.FLOW_DISPATCHED.labels(level, schema)
        self.waited = metrics.FLOW_WAIT.labels("true", level, schema)
        for gauge in (metrics.FLOW_EXECUTING, metrics.FLOW_SEATS):
            gauge.labels(level, schema).set_function(lambda: self.executing)
        metrics.FLOW_QUEUED.labels(level, schema).set_function(lambda: self.queued)

    @property
    def idle(self) -> bool:
        return not self.executing and not self.queued


@dataclass(frozen=True, slots=True)
class Flow:
    """Where a request belongs; `headers` tell the client so."""

    schema: Schema
    level: Level
    counts: _Counts
    distinguisher: str
    headers: dict[str, str]

    @property
    def hash(self) -> int:
        name = f"{self.schema.name}\0{self.distinguisher}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest())


class FlowControl:
    """`server_seats`: requests served at once by all levels together; `wait_s`: how long one may wait for its turn."""

    def __init__(self, server_seats: int, *, wait_s: float = 15.0) -> None:
        self._seats = Seats(server_seats)
        self._wait_s = wait_s
        self._schemas: list[Schema] = []
        self._flows: dict[tuple[object, ...], Flow] = {}
        self._counts: dict[tuple[str, str], _Counts] = {}
        self._served = dict.fromkeys(_KINDS, 0)
        self._idle: asyncio.Event | None = None
        for kind in _KINDS:
            metrics.INFLIGHT.labels(kind).set_function(partial(self._served.__getitem__, kind))
        self.configure(bootstrap_flow.flow_schemas(), bootstrap_flow.priority_levels())

    def configure(self, schemas: Iterable[Object], levels: Iterable[Object]) -> None:
        """Count by these from now on. The mandatory ones are supplied where they are missing."""
        found = {o["metadata"]["name"]: o for o in (*_mandatory(bootstrap_flow.priority_levels()), *levels)}
        before = set(self._seats.levels)
        self._seats.configure(found.values())
        every = {o["metadata"]["name"]: o for o in (*_mandatory(bootstrap_flow.flow_schemas()), *schemas)}
        self._schemas = in_order((Schema.of(o) for o in every.values()), found)
        self._flows.clear()
        self._forget_counts()
        self._publish(before - set(found))

    def _forget_counts(self) -> None:
        """Of FlowSchemas that are gone; one whose requests are still under way goes at a later change. Counters stay:
        a total that vanishes before it is read is lost."""
        pairs = {(schema.level, schema.name) for schema in self._schemas}
        for pair in [p for p, counts in self._counts.items() if p not in pairs and counts.idle]:
            del self._counts[pair]
            for gauge in (metrics.FLOW_EXECUTING, metrics.FLOW_SEATS, metrics.FLOW_QUEUED):
                gauge.remove(*pair)

    def _publish(self, gone: set[str]) -> None:
        for level in self._seats.levels.values():
            for gauge, value in zip(metrics.FLOW_LIMITS, (level.nominal, level.lower, level.upper), strict=True):
                gauge.labels(level.name).set(value)
        for name in gone:
            for gauge in metrics.FLOW_LIMITS:
                gauge.remove(name)

    def match(self, user: UserInfo, info: RequestInfo) -> Flow:
        where = (info.group, info.resource, info.subresource, info.namespace) if info.is_resource else info.path
        key = (user.name, user.groups, info.verb, where)
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= _REMEMBERED:
                self._flows.clear()
            flow = self._flows[key] = self._find(user, info)
        return flow

    def _find(self, user: UserInfo, info: RequestInfo) -> Flow:
        schema = next((s for s in self._schemas if s.matches(user, info)), self._schemas[-1])
        pair = (schema.level, schema.name)
        counts = self._counts.get(pair)
        if counts is None:
            counts = self._counts[pair] = _Counts(*pair)
        level = self._seats.levels[schema.level]
        headers = {_SCHEMA_UID: schema.uid, _LEVEL_UID: level.uid}
        return Flow(schema, level, counts, schema.distinguisher(user, info), headers)

    def slot(self, flow: Flow, *, mutating: bool) -> Slot:
        """A context: raises ApiError 429 when the flow's queues are full, its level does not queue, or its turn comes
        too late."""
        return Slot(self, flow, _KINDS[mutating])

    async def enter(self, flow: Flow, kind: str) -> None:
        """Its seat must be left again. Raises ApiError 429."""
        if not self._seats.take(flow.level):
            await self._queue(flow)
        flow.counts.executing += 1
        flow.counts.dispatched.inc()
        self._served[kind] += 1

    def leave(self, flow: Flow, kind: str) -> None:
        self._served[kind] -= 1
        flow.counts.executing -= 1
        self._seats.give(flow.level)
        if self._idle is not None and not self.total:
            self._idle.set()

    async def _queue(self, flow: Flow) -> None:
        level, counts = flow.level, flow.counts
        if level.rejects:
            raise _refused(flow, "concurrency-limit")
        place = self._seats.wait(level, flow.hash)
        if place is None:
            raise _refused(flow, "queue-full")
        queue, turn = place
        began = time.perf_counter()
        counts.queued += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as e:
            self._seats.leave(level, queue, turn)
            if isinstance(e, TimeoutError):
                raise _refused(flow, "time-out") from None
            raise
        finally:
            counts.queued -= 1
            counts.waited.observe(time.perf_counter() - began)

    async def drained(self, timeout_s: float) -> None:
        """Wait until nothing is in flight, or the time is over."""
        if not self.total:
            return
        self._idle = asyncio.Event()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            pass

    @property
    def total(self) -> int:
        return sum(self._served.values())


class Slot:
    """A seat for as long as the context lasts."""

    __slots__ = ("_control", "_flow", "_kind")

    def __init__(self, control: FlowControl, flow: Flow, kind: str) -> None:
        self._control = control
        self._flow = flow
        self._kind = kind

    async def __aenter__(self) -> None:
        await self._control.enter(self._flow, self._kind)

    async def __aexit__(self, *_: object) -> None:
        self._control.leave(self._flow, self._kind)


def _mandatory(objs: list[Object]) -> list[Object]:
    return [o for o in objs if o["metadata"]["name"] in bootstrap_flow.MANDATORY]


def _refused(flow: Flow, reason: str) -> errors.ApiError:
    metrics.FLOW_REJECTED.labels(flow.level.name, flow.schema.name, reason).inc()
    return errors.too_many_requests("the server has received too many requests, please try again later", 1)
