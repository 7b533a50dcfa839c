"""Graceful node shutdown: the groups of pods, their order and their time (KEP-2000, KEP-2712)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.node import core_events as ev
from cluster.node import node_shutdown
from cluster.node.config import KubeletConfig
from cluster.node.shutdown_plan import MESSAGE, REASON, Group, groups, periods
from tests.support.pod_driver import Driver, make_pod

CRITICAL = 2_000_000_000


def test_critical_pods_get_their_part_of_the_period_and_end_last() -> None:
    limits = periods(30, 10, ())
    assert groups([("dns", CRITICAL + 1000), ("web", 0), ("batch", -5)], limits) == [
        Group(20, ("web", "batch")),
        Group(10, ("dns",)),
    ]


def test_periods_by_priority_stand_in_place_of_the_two() -> None:
    limits = periods(30, 10, ((1000, 20.0), (0, 60.0), (CRITICAL, 5.0)))
    pods = [("a", 999), ("b", 1000), ("c", CRITICAL), ("d", -1)]
    assert groups(pods, limits) == [Group(60, ("a", "d")), Group(20, ("b",)), Group(5, ("c",))]


def test_without_a_period_nothing_is_ended_in_order() -> None:
    assert periods(0, 0, ()) == ()
    assert groups([("a", 0)], ()) == []


def test_a_pod_that_is_ended_fails_with_the_reason_and_within_the_groups_time() -> None:
    d = Driver(make_pod(terminationGracePeriodSeconds=60), auto=False)
    for event in (ev.VolumesReady(), ev.SandboxReady("s", "1.2.3.4"), ev.ContainerStarted("app", "a", "i", d.now)):
        d.send(event)
    assert d.condition("Ready") == "True"
    d.send(ev.PodEvicted(REASON, MESSAGE, 10.0, "Normal"))
    assert d.of(ev.StopContainer)[0].grace_s == 10.0
    # While it may run nobody may make it anew, as a pod that has failed would be; but it is asked nothing any more.
    assert (d.status["phase"], d.condition("Ready"), d.condition("ContainersReady")) == ("Running", "False", "True")
    assert "reason" not in d.status and "DisruptionTarget" not in {c["type"] for c in d.status["conditions"]}
    d.exit("app", 143)
    assert (d.status["phase"], d.status["reason"], d.status["message"]) == ("Failed", "Terminated", MESSAGE)
    assert d.condition("DisruptionTarget") == "True"


def test_a_pod_that_was_said_to_have_failed_is_not_said_to_run_again() -> None:
    failed = make_pod() | {"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}}
    running = ev.SeenContainer("app", "c0", 0, True, "s", "sha256:1", 0.0)
    d = Driver(failed, auto=False, adopt=ev.Adopt(ev.SeenSandbox("s", True, "10.244.0.9", 0), (running,)))
    d.send(ev.PodSeen(failed))
    assert d.core.containers["app"].active
    assert (d.core.status()["phase"], d.core.status()["reason"]) == ("Failed", "Evicted")


def started(**spec: Any) -> Driver:
    """A pod whose containers, `sidecar` before `app`, run."""
    sidecar = {"name": "sidecar", "image": "img:1", "restartPolicy": "Always"}
    d = Driver(make_pod(restartPolicy="Never", initContainers=[sidecar], **spec), auto=False)
    for event in (ev.VolumesReady(), ev.SandboxReady("s", "1.2.3.4"), ev.ContainerStarted("sidecar", "b", "i", d.now),
                  ev.ContainerStarted("app", "a", "i", d.now)):  # fmt: skip
        d.send(event)
    return d


def test_a_pod_that_is_ended_is_never_said_to_have_succeeded() -> None:
    d = started()
    d.send(ev.PodEvicted(REASON, MESSAGE, 10.0, "Normal"))
    d.exit("app", 0)
    assert d.core.containers["sidecar"].active
    assert (d.status["phase"], d.condition("Ready")) == ("Running", "False") and "reason" not in d.status
    d.exit("sidecar", 143)
    assert (d.status["phase"], d.status["reason"]) == ("Failed", "Terminated")


def test_a_pod_is_over_when_its_sidecars_are() -> None:
    d = started()
    d.exit("app", 0)
    assert (d.status["phase"], d.condition("Ready")) == ("Running", "False")
    d.exit("sidecar", 143)
    assert d.status["phase"] == "Succeeded"


class Worker:
    """A pod that ends when it is told to."""

    uid = "a"
    core = SimpleNamespace(mode="run")
    pod: dict[str, Any] = {"spec": {}}  # noqa: RUF012

    def __init__(self) -> None:
        self.posted: list[Any] = []
        self._told = asyncio.Event()

    def post(self, event: Any) -> None:
        self.posted.append(event)
        self._told.set()

    async def over(self) -> None:
        await self._told.wait()


class Late(Worker):
    """Ends a little after it was killed."""

    ended = False

    async def over(self) -> None:
        await super().over()
        await asyncio.sleep(0.1)
        self.ended = True


def shutdown_of(worker: Worker, report: Callable[[], Awaitable[None]]) -> node_shutdown.NodeShutdown:
    config = KubeletConfig("m1", "127.0.0.1", "/r", "", "", "", shutdown_grace_period_by_pod_priority=((0, 0.01),))
    recorder, workers = SimpleNamespace(event=lambda *_: None), [worker]
    return node_shutdown.NodeShutdown(config, recorder, workers=lambda: workers, report=report)  # type: ignore[arg-type, return-value]


async def test_who_takes_all_of_its_time_is_told_of_before_the_machine_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_shutdown, "_REPORT_S", 60)

    async def report() -> None:
        return

    worker = Late()
    await shutdown_of(worker, report).end_pods()
    assert worker.ended


async def test_pods_end_though_the_api_never_takes_the_nodes_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_shutdown, "_REPORT_S", 0.01)
    worker, unreachable = Worker(), asyncio.Event()

    async def report() -> None:
        await unreachable.wait()

    async with asyncio.timeout(60):
        await shutdown_of(worker, report).end_pods()
    assert worker.posted == [ev.PodEvicted(REASON, MESSAGE, 0.01, "Normal")]
