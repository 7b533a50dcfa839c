"""A pod's worker when what it gives back is not taken at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from cluster.api.faults import no_fault
from cluster.node import core_events as ev
from cluster.node.hollow.node import HollowSpec
from cluster.node.hollow.parts import (
    HollowLogs,
    HollowNetwork,
    HollowPorts,
    HollowProber,
    HollowStarter,
    HollowVolumes,
)
from cluster.node.hollow.runtime import HollowRuntime
from cluster.node.last_resort import LastResort, nothing_there
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.pod_worker import PodWorker, Tools
from cluster.node.runtime_class import no_handlers

Obj = dict[str, Any]


class Told:
    """Statuses and events, told to nobody."""

    def set(self, pod: Obj, status: Obj) -> None:
        return

    def seen(self, pod: Obj) -> None:
        return

    async def flush(self, uid: str) -> None:
        return

    def forget(self, uid: str) -> None:
        return

    def event(self, obj: Obj, type_: str, reason: str, message: str) -> None:
        return


def tools(**changed: Any) -> Tools:
    async def gone(pod: Obj) -> bool:
        return True

    runtime, told = HollowRuntime(time.time), Told()
    given: Obj = {
        "config": HollowSpec().config("m1", 0),
        "delete_object": gone,
        "runtime": runtime,
        "network": HollowNetwork(lambda: "10.1.0.0/24"),
        "host_ports": HollowPorts(),
        "volumes": HollowVolumes(),
        "logs": HollowLogs(),
        "cgroups": PodCgroups(""),
        "handler_of": no_handlers,
        "last_resort": LastResort(runtime, nothing_there),
        "starter": HollowStarter(runtime, time.time),
        "prober": HollowProber(),
        "statuses": told,
        "judge_resize": lambda pod: ("", ""),
        "recorder": told,
        "clock": time.monotonic,
        "wall": time.time,
        "hit": no_fault,
    }
    return Tools(**given | changed)


async def test_devices_that_cannot_be_given_back_at_once_do_not_keep_the_pod() -> None:
    asked, forgotten = [], asyncio.Event()

    async def free_devices(uid: str) -> None:
        asked.append(uid)
        if len(asked) == 1:
            raise OSError(28, "No space left on device")

    meta = {"name": "p", "namespace": "default", "uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    pod = {"metadata": meta, "spec": {"containers": [{"name": "c", "image": "app:1"}]}}
    worker = PodWorker(pod, tools(free_devices=free_devices), lambda uid: forgotten.set())
    worker.post(ev.Adopt(None))
    async with asyncio.timeout(60):
        await forgotten.wait()
    assert asked == ["u1", "u1"]
