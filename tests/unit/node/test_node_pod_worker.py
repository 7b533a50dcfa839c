"""A pod's worker when what it gives back is not taken at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cluster.api.faults import no_fault
from cluster.node import container_stop, last_resort, pod_containers
from cluster.node import core_events as ev
from cluster.node.core import PodCore
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
from cluster.node.pod_shell import PodShell
from cluster.node.pod_tools import Tools
from cluster.node.pod_worker import PodWorker
from cluster.node.runtime import ContainerInfo, PodRef
from cluster.node.runtime_class import no_handlers
from cluster.node.traces import StartTrace

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


async def test_a_pod_that_wants_a_user_namespace_does_not_run_without_one() -> None:
    meta = {"name": "p", "namespace": "default", "uid": "u1"}
    containers = [{"name": "c", "image": "app:1"}]
    said: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    told = Told()
    told.event = lambda obj, type_, reason, message: said.put_nowait((reason, message))  # type: ignore[method-assign]
    worker = PodWorker(
        {"metadata": meta, "spec": {"containers": containers, "hostUsers": False}},
        tools(recorder=told),
        lambda uid: None,
    )
    worker.post(ev.Adopt(None))
    async with asyncio.timeout(60):
        reason, message = await said.get()
    await asyncio.gather(*worker.close(), return_exceptions=True)
    assert reason == "FailedCreatePodSandBox" and message.endswith("runtime does not support user namespaces")


class Heard(Told):
    """Keeps the events' references."""

    def __init__(self) -> None:
        self.about: list[Obj] = []

    def event(self, obj: Obj, type_: str, reason: str, message: str) -> None:
        self.about.append(obj)


def test_an_event_names_the_field_of_its_container() -> None:
    """Regression: an ephemeral container's events were told of spec.initContainers."""
    spec = {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]}
    pod = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u1"},
        "spec": spec | {"ephemeralContainers": [{"name": "e"}]},
    }
    heard = Heard()
    given = tools(recorder=heard)
    shell = PodShell(PodCore(pod, "10.0.0.1", 0.0), given, lambda event: None, StartTrace(None, pod, adopted=False))
    for name in ("i", "s", "c", "e", ""):
        shell.emit("Normal", "Pulled", "m", name)
    assert [each.get("fieldPath") for each in heard.about] == [
        "spec.initContainers{i}",
        "spec.initContainers{s}",
        "spec.containers{c}",
        "spec.ephemeralContainers{e}",
        None,
    ]


class SlowToLook(HollowRuntime):
    """Tells of ends at once, if at all, and says how they were only when it is `asked` for the third time."""

    def __init__(self) -> None:
        super().__init__(time.time)
        self.asked = 0

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        self.asked += 1
        if self.asked < 3:
            await asyncio.Event().wait()
        return await super().inspect(container_id)


@pytest.mark.parametrize("told", [True, False])
async def test_nothing_is_killed_past_an_engine_that_told_of_the_end_and_is_slow_to_say_how(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a busy engine lost its shim, and a false FailedKillPod said that it does not end the container."""
    for module, name in (
        (pod_containers, "_LOOK_S"),
        (pod_containers, "_KILL_AGAIN_S"),
        (container_stop, "_AFTER_KILL_S"),
        (last_resort, "_HEARD_S"),
    ):
        monkeypatch.setattr(module, name, 0.02)
    killed: list[bool] = []

    async def past_engine(container_id: str, *, shim: bool) -> str:
        killed.append(shim)
        return ""

    runtime = SlowToLook()
    runtime.resume([ContainerInfo("c1", PodRef("default", "p", "u1"), "c", 0, "running", "s1")])
    pod = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u1", "deletionGracePeriodSeconds": 0}
        | {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "image": "app:1"}]},
    }
    forgotten = asyncio.Event()
    given = tools(runtime=runtime, last_resort=LastResort(runtime, past_engine))
    worker = PodWorker(pod, given, lambda uid: forgotten.set())
    seen = ev.SeenContainer("c", "c1", 0, running=True, sandbox_id="s1", image_id="i", started_at=1.0)
    worker.post(ev.Adopt(ev.SeenSandbox("s1", True, "10.1.0.2", 0), (seen,)))
    if told:
        worker.died("c1", "c")
    async with asyncio.timeout(60):
        await forgotten.wait()
    assert bool(killed) is not told
