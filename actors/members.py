"""Replacing a store member whose disk was lost: the two sides of the request, and the leased Supervisor between them,
which also takes the store's snapshots on schedule and looks after Ray's head.

    State on the wiped machine                        Supervisor (leads by lease)
      put  /sk8/members/request/<host> {nonce}   -->   raft.replacement.next_step, one step at a time:
      wait /sk8/members/grant/<host> {nonce,id}  <--   remove the old member, grant an id, add it as a learner
      join_member, serve                               promote it once it has caught up; delete the request

IO through the store's client. What to do next is decided by `raft.replacement`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import orjson
from prometheus_client import Counter

from actors.ray_head import RayHeadWatch
from cluster.machinery.election import Elector
from cluster.registry.keys import LAST_MEMBER_ID as LAST_ID
from cluster.registry.keys import MEMBER_GRANTS as GRANTS
from cluster.registry.keys import MEMBER_REQUESTS as REQUESTS
from cluster.registry.store import Store, delete, get, prefix_end, put, unchanged
from raft.backup.keeper import SnapshotKeeper
from raft.config import Address
from raft.errors import StoreError
from raft.replacement import AddLearner, Done, Grant, Member, Promote, Remove, Request, Step, next_step

log = logging.getLogger(__name__)

RETRY_S = 0.5
LONGEST_RETRY_S = 60.0
FAILURES = Counter(
    "sk8_supervisor_failures_total", "Unexpected errors of the leader's tasks, each tried again", ["task"]
)


Listed = tuple[int, Address, bool]
"""A member as the store lists it: id, address, whether it is a learner."""


class MemberStore(Store, Protocol):
    """The store with its membership operations."""

    async def member_list(self) -> list[Listed]: ...
    async def member_add(self, member_id: int, address: Address) -> list[Listed]: ...
    async def member_promote(self, member_id: int) -> list[Listed]: ...
    async def member_remove(self, member_id: int) -> list[Listed]: ...


async def ask_to_join(store: MemberStore, host: str) -> tuple[int, Mapping[int, Address]]:
    """Wait until this host is a learner; its new member id and everybody's addresses."""
    nonce = secrets.token_hex(8)
    request, grant = REQUESTS + host.encode(), GRANTS + host.encode()
    while True:
        try:
            asked = await store.range(request)
            if not asked.kvs or _nonce(asked.kvs[0].value) != nonce:
                await store.txn([], [put(request, orjson.dumps({"nonce": nonce}))])
            granted = await store.range(grant)
            if granted.kvs and (answer := orjson.loads(granted.kvs[0].value))["nonce"] == nonce:
                listed = await store.member_list()
                addresses = {member_id: address for member_id, address, _ in listed}
                if answer["id"] in addresses:
                    return int(answer["id"]), addresses
        except StoreError as error:
            log.info("asking to join: %s", error)
        await asyncio.sleep(RETRY_S)


def _nonce(request: bytes) -> str:
    """ "" for what is no request: the machine that waits writes it anew."""
    try:
        return str(orjson.loads(request)["nonce"])
    except (ValueError, KeyError, TypeError):
        return ""


async def keep_running(task: str, run: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled. An error in one of the leader's tasks ends neither the others nor the actor: while Ray's head is
    away nobody would start it again. It is tried again ever later while it fails soon: a snapshot is work."""
    loop, pause_s = asyncio.get_running_loop(), RETRY_S
    while True:
        began = loop.time()
        try:
            await run()
        except Exception:  # the task's outermost loop
            FAILURES.labels(task).inc()
            log.exception("%s: tried again", task)
        pause_s = RETRY_S if loop.time() - began > LONGEST_RETRY_S else min(2 * pause_s, LONGEST_RETRY_S)
        await asyncio.sleep(pause_s)


class Supervisor:
    """Carries out membership changes; leads by lease, so one at a time in the whole cluster."""

    def __init__(
        self,
        store: MemberStore,
        elector: Elector,
        peer_port: int,
        client_port: int,
        keeper: SnapshotKeeper,
        ray_head: RayHeadWatch,
    ) -> None:
        self._store = store
        self._ray_head = ray_head
        self._keeper = keeper
        self._elector = elector
        self._ports = (peer_port, client_port)
        self._pending: list[str] = []

    async def run(self) -> None:
        await self._elector.run(self._lead)

    def health(self) -> dict[str, object]:
        return {
            "leading": self._elector.leading,
            "replacing": list(self._pending),
            "snapshots": self._keeper.health(),
        }

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_running("members", self._replace_members))
            group.create_task(keep_running("snapshots", self._keeper.run))
            group.create_task(keep_running("ray-head", self._ray_head.run))

    async def _replace_members(self) -> None:
        """Look whenever a request is written, and again while one is unfinished."""
        while True:
            revision = await self._handle_all()
            if self._pending:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async for batch in self._store.watch(REQUESTS, prefix_end(REQUESTS), start_revision=revision + 1):
                    if batch.events:
                        break
            except StoreError as error:  # compacted, for one: everything is read anew
                log.info("watching for requests: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _handle_all(self) -> int:
        while True:
            try:
                found = await self._store.range(REQUESTS, prefix_end(REQUESTS))
                break
            except StoreError as error:
                log.info("looking for requests: %s", error)
                await asyncio.sleep(RETRY_S)
        asked = [(kv, kv.key[len(REQUESTS) :].decode(), _nonce(kv.value)) for kv in found.kvs]
        self._pending = [host for _, host, nonce in asked if nonce]
        for kv, host, nonce in asked:
            if not nonce:
                log.warning("replacing the member of %s: its request cannot be read", host)
                continue
            try:
                await self._step(Request(host, nonce), kv.mod_revision)
            except StoreError as error:
                log.info("replacing the member of %s: %s", host, error)
        return found.revision

    async def _step(self, request: Request, mod_revision: int) -> None:
        host = request.host.encode()
        granted, last = await self._store.range(GRANTS + host), await self._store.range(LAST_ID)
        answer = orjson.loads(granted.kvs[0].value) if granted.kvs else None
        grant = Grant(answer["nonce"], int(answer["id"])) if answer else None
        listed = await self._store.member_list()
        members = [Member(member_id, address[0], learner) for member_id, address, learner in listed]
        step = next_step(members, request, grant, int(last.kvs[0].value) if last.kvs else 0)
        log.info("replacing the member of %s: %s", request.host, step)
        await self._do(step, request, mod_revision)

    async def _do(self, step: Step, request: Request, mod_revision: int) -> None:
        fence, host = list(self._elector.fence), request.host.encode()
        if isinstance(step, Remove):
            result = await self._store.txn(fence, [put(LAST_ID, str(step.last_id).encode())], [get(LAST_ID)])
            if result.succeeded:
                await self._store.member_remove(step.member_id)
        elif isinstance(step, AddLearner):
            grant = orjson.dumps({"nonce": request.nonce, "id": step.member_id})
            result = await self._store.txn(
                fence, [put(GRANTS + host, grant), put(LAST_ID, str(step.member_id).encode())], [get(LAST_ID)]
            )
            if result.succeeded:
                await self._store.member_add(step.member_id, (step.host, *self._ports))
        elif isinstance(step, Promote):
            await self._store.member_promote(step.member_id)
        elif isinstance(step, Done):
            key = REQUESTS + host
            await self._store.txn([*fence, unchanged(key, mod_revision)], [delete(key)])
