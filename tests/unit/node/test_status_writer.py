"""Statuses on their way to the API: the newest wins, whatever order answers and events come in."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.node.status_writer import StatusWriter

Obj = dict[str, Any]


def pod(revision: int = 1, status: Obj | None = None) -> Obj:
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": str(revision)},
        "status": status or {},
    }


def status(ready: bool) -> Obj:
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}


class Api:
    """Keeps the last status; `before_answer` runs when a write is stored and not yet answered."""

    def __init__(self) -> None:
        self.revision = 1
        self.stored: Obj = {}
        self.writes = 0
        self.writer: StatusWriter | None = None
        self.event_first = False

    async def patch(self, resource: str, name: str, patch: Obj, namespace: str = "", **_: Any) -> Obj:
        self.writes += 1
        self.revision += 1
        self.stored = patch["status"]
        stored = pod(self.revision, self.stored)
        if self.event_first and self.writer is not None:
            self.writer.seen(stored)
        await asyncio.sleep(0)
        return stored


async def test_own_event_before_the_answer_is_not_undone() -> None:
    """Regression: a pod stayed at ContainerCreating, its last status having been taken for a stranger's."""
    api = Api()
    writer = api.writer = StatusWriter(api, lambda: 0.0)  # type: ignore[arg-type]
    writer.set(pod(), status(ready=False))
    await writer.flush("u")
    api.event_first = True
    writer.set(pod(), status(ready=True))
    await writer.flush("u")
    await asyncio.sleep(0.01)
    assert api.stored["conditions"][0]["status"] == "True"
    assert api.writes == 2


async def test_what_a_stranger_changed_is_written_again_also_while_writing() -> None:
    api = Api()
    writer = StatusWriter(api, lambda: 0.0)  # type: ignore[arg-type]
    writer.set(pod(), status(ready=True))
    await writer.flush("u")
    writer.seen(pod(api.revision + 5, status(ready=False)))
    await writer.flush("u")
    assert api.writes == 2 and api.stored["conditions"][0]["status"] == "True"

    writer.set(pod(), status(ready=True))
    await asyncio.sleep(0)
    writer.seen(pod(api.revision + 9, status(ready=False)))
    await writer.flush("u")
    assert api.writes == 4


async def test_an_old_view_is_ignored() -> None:
    api = Api()
    writer = StatusWriter(api, lambda: 0.0)  # type: ignore[arg-type]
    writer.set(pod(), status(ready=True))
    await writer.flush("u")
    writer.seen(pod(1, status(ready=False)))
    await writer.flush("u")
    assert api.writes == 1


async def test_an_address_from_before_a_restart_is_deleted() -> None:
    """Regression: after a reboot the pod's old address stayed first in podIPs, and Services led to it."""
    api = Api()
    writer = StatusWriter(api, lambda: 0.0)  # type: ignore[arg-type]
    old = pod(status={"podIP": "10.0.0.4", "podIPs": [{"ip": "10.0.0.4"}]})
    writer.set(old, status(ready=True) | {"podIP": "10.0.0.6", "podIPs": [{"ip": "10.0.0.6"}]})
    await writer.flush("u")
    assert {"ip": "10.0.0.4", "$patch": "delete"} in api.stored["podIPs"]
