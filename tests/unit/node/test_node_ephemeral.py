"""Ephemeral containers (kubectl debug): they run once, wait for nobody and count for nothing."""

from __future__ import annotations

from typing import Any

from cluster.machinery.clock import steady
from cluster.node import core_events as ev
from cluster.node.core_events import ExitInfo
from tests.support.fake_clock import FakeClock
from tests.support.pod_driver import T0, Driver, make_pod


def debugged(d: Driver, *names: str) -> None:
    containers = [{"name": n, "image": "busybox", "targetContainerName": "app"} for n in names]
    d.send(ev.PodSeen({**d.pod, "spec": {**d.pod["spec"], "ephemeralContainers": containers}}))


def ephemeral(d: Driver) -> dict[str, Any]:
    return {s["name"]: s for s in d.status["ephemeralContainerStatuses"]}


def test_one_that_is_added_is_started_beside_the_others() -> None:
    d = Driver(make_pod())
    debugged(d, "debug")
    assert [a.name for a in d.of(ev.StartContainer)] == ["app", "debug"]
    assert "running" in ephemeral(d)["debug"]["state"]
    assert [s["name"] for s in d.status["containerStatuses"]] == ["app"]
    assert "initContainerStatuses" not in d.status


def test_it_is_never_restarted_and_its_end_changes_nothing_of_the_pod() -> None:
    d = Driver(make_pod())
    debugged(d, "debug")
    d.exit("debug", 1)
    d.advance(1000)
    assert [a.name for a in d.of(ev.StartContainer)] == ["app", "debug"]
    assert ephemeral(d)["debug"]["state"]["terminated"]["exitCode"] == 1
    assert d.status["phase"] == "Running" and d.condition("Ready") == "True"


def test_it_does_not_wait_for_init_containers() -> None:
    d = Driver(make_pod(initContainers=[{"name": "stuck"}]))
    debugged(d, "debug")
    assert [a.name for a in d.of(ev.StartContainer)] == ["stuck", "debug"]


def test_it_ends_with_the_pod() -> None:
    d = Driver(make_pod())
    debugged(d, "one", "two")
    d.send(ev.PodSeen({**d.core.pod, "metadata": {**d.pod["metadata"], "deletionTimestamp": "now"}}))
    assert {a.name for a in d.of(ev.StopContainer)} == {"app", "one", "two"}
    assert d.core.mode == "done"


def test_a_restarted_kubelet_knows_one_that_ended() -> None:
    pod = make_pod(ephemeralContainers=[{"name": "debug", "image": "b"}])
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    status = {"name": "debug", "containerID": "docker://x", "restartCount": 0, "state": ended}
    d = Driver({**pod, "status": {"ephemeralContainerStatuses": [status]}})
    assert [a.name for a in d.of(ev.StartContainer)] == ["app"]
    assert ephemeral(d)["debug"]["state"]["terminated"]["exitCode"] == 3


def test_back_off_does_not_believe_the_engines_clock() -> None:
    """The wall clock was set back: finishedAt lies in the past, and the container must not be restarted at once."""
    d = Driver(make_pod())
    for _ in range(2):
        state = d.core.containers["app"]
        d.send(ev.ContainerExited("app", ExitInfo(state.id, 1, "Error", "", T0 - 600, T0 - 600)))
    assert d.container("app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    d.advance(9)
    assert d.container("app")["restartCount"] == 1
    d.advance(2)
    assert d.container("app")["restartCount"] == 2


def test_the_cores_time_runs_on_when_the_wall_clock_is_set() -> None:
    wall, ticks = FakeClock(1000.0), FakeClock(5.0)
    clock = steady(wall, ticks)
    assert clock() == 1000.0
    wall.advance(-600)
    ticks.advance(2)
    assert clock() == 1002.0
