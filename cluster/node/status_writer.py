"""Pods' statuses on their way to the API: only changes, the newest last, one write at a time per pod.

IO only through the injected Client. What the core reports is completed here with the transition times of conditions and
sent as a strategic merge patch of `pods/status`, so that conditions of other owners survive. A write that failed is
tried again until a newer status replaces it or the pod is no more. When somebody else changes what is ours (the node
controller marks the pods of a silent machine not ready), it is written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.machinery.client import Client
from cluster.machinery.informer import revision_of

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_RETRY_MAX_S = 5.0
PASSING = ("PodResizePending", "PodResizeInProgress")
"""Conditions that are there only while they are true."""


@dataclass(slots=True)
class _Entry:
    pod: Obj
    wanted: Obj | None = None
    written: Obj | None = None
    revision: int = 0
    conditions: dict[str, Obj] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    unjudged: Obj | None = None


class StatusWriter:
    """One writer for all pods of a kubelet."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def set(self, pod: Obj, status: Obj) -> None:
        """Want this status for the pod; returns at once."""
        entry = self._entry(pod)
        entry.wanted = status
        self._wake(entry)

    def seen(self, pod: Obj) -> None:
        """The API's view of a pod: write again what is ours and was changed after our last write.

        While a write is under way its own event may come before its answer: judged then, it would look like somebody
        else's change and be undone. So the newest view waits until the answer is there.
        """
        entry = self._entries.get(pod["metadata"]["uid"])
        if entry is None:
            return
        if entry.task is not None and not entry.task.done():
            entry.unjudged = pod
            return
        self._judge(entry, pod)

    def _judge(self, entry: _Entry, pod: Obj) -> None:
        if entry.written is None or entry.wanted is not None:
            return
        if revision_of(pod) > entry.revision and not agrees(pod.get("status") or {}, entry.written):
            entry.conditions = _known_conditions(pod)
            entry.wanted = entry.written
            self._wake(entry)  # nothing to do when called from the writing task itself: it looks again

    async def flush(self, uid: str) -> None:
        """Return when nothing is left to be written for a pod."""
        entry = self._entries.get(uid)
        while entry is not None and entry.task is not None and not entry.task.done():
            await asyncio.wait([entry.task])

    def forget(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    async def close(self) -> None:
        tasks = [e.task for e in self._entries.values() if e.task is not None]
        for uid in list(self._entries):
            self.forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _entry(self, pod: Obj) -> _Entry:
        uid = pod["metadata"]["uid"]
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(pod, conditions=_known_conditions(pod))
        return entry

    def _wake(self, entry: _Entry) -> None:
        if entry.task is None or entry.task.done():
            entry.task = asyncio.get_running_loop().create_task(self._work(entry))

    async def _work(self, entry: _Entry) -> None:
        """Write until nothing is wanted and nothing seen meanwhile contradicts it."""
        while entry.wanted is not None:
            await self._drain(entry)
            pod, entry.unjudged = entry.unjudged, None
            if pod is not None:
                self._judge(entry, pod)

    async def _drain(self, entry: _Entry) -> None:
        meta, delay = entry.pod["metadata"], 0.1
        while entry.wanted is not None:
            status, entry.wanted = entry.wanted, None
            entry.conditions, listed = timed_conditions(status["conditions"], entry.conditions, self._clock())
            dropped = _dropped_ips(entry.written or entry.pod.get("status"), status)
            patch = {
                "metadata": {"uid": meta["uid"]},
                "status": {**status, "conditions": listed, **dropped},
            }
            try:
                stored = await self._client.patch(
                    "pods", meta["name"], patch, meta["namespace"], kind="strategic", subresource="status"
                )
            except ApiError as err:
                if await self._is_final(err, meta):
                    level = logging.WARNING if err.code == 422 else logging.DEBUG
                    log.log(level, "status of %s/%s: %s", meta["namespace"], meta["name"], err.message)
                    continue
                log.debug("status of %s/%s, trying again: %s", meta["namespace"], meta["name"], err.message)
                entry.wanted = entry.wanted or status
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
                continue
            entry.written, entry.revision, delay = status, revision_of(stored), 0.1

    async def _is_final(self, err: ApiError, meta: Obj) -> bool:
        """Whether to give a write up: refused, or the pod is gone. A conflict is also what a busy server says."""
        if err.code != 409:
            return err.code in (404, 422)
        try:
            pod = await self._client.get("pods", meta["name"], meta["namespace"])
        except ApiError as again:
            return again.code == 404
        return bool(pod["metadata"]["uid"] != meta["uid"])


def _known_conditions(pod: Obj) -> dict[str, Obj]:
    return {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}


def timed_conditions(conditions: list[Obj], known: dict[str, Obj], now: float) -> tuple[dict[str, Obj], list[Obj]]:
    """Conditions with lastTransitionTime (kept while the status stays), by type, and as a strategic patch lists them:
    what a condition no longer has is nulled.
    """
    by_type = dict(known)
    listed = []
    for condition in conditions:
        old = known.get(condition["type"])
        same = old is not None and old.get("status") == condition["status"] and old.get("lastTransitionTime")
        timed = {**condition, "lastTransitionTime": old["lastTransitionTime"] if old and same else rfc3339(now)}
        by_type[condition["type"]] = timed
        listed.append({"reason": None, "message": None, **timed})
    for kind in PASSING:
        if kind in by_type and not any(c["type"] == kind for c in conditions):
            del by_type[kind]
            listed.append({"type": kind, "$patch": "delete"})
    return by_type, listed


def _dropped_ips(written: Obj | None, status: Obj) -> Obj:
    """podIPs is merged by address: an address the pod no longer has must be deleted by name.

    `written` is what the API has: our last write, or what the pod came with after a restart of this kubelet.
    """
    before = {ip["ip"] for ip in (written or {}).get("podIPs") or ()}
    now = [ip["ip"] for ip in status.get("podIPs") or ()]
    gone = sorted(before - set(now))
    patch: Obj = {}
    if gone:
        patch["podIPs"] = [{"ip": ip} for ip in now] + [{"ip": ip, "$patch": "delete"} for ip in gone]
        if not now:
            patch["podIP"] = None
    return patch


def agrees(seen: Obj, ours: Obj) -> bool:
    """Whether the API still says what we wrote, in what others are known to change."""
    if seen.get("phase") != ours.get("phase"):
        return False
    theirs = {c["type"]: c.get("status") for c in seen.get("conditions") or ()}
    return all(theirs.get(c["type"]) == c["status"] for c in ours["conditions"])
