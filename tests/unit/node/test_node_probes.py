"""Probes: timing, thresholds, and what their results do to a pod."""

from __future__ import annotations

from typing import Any

from cluster.node import core_events as ev
from cluster.node.core import PodCore
from cluster.node.core_probe import Probes, ProbeSpec, ProbeState

T0 = 1_700_000_000.0


def running(**container: Any) -> PodCore:
    pod = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i", **container}]},
    }
    core = PodCore(pod, "10.0.0.1", T0)
    for event in (
        ev.Adopt(None),
        ev.VolumesReady(),
        ev.SandboxReady("s", "10.0.0.2"),
        ev.ContainerStarted("c", "id0", "sha256:1", T0),
    ):
        core.handle(event, T0)
    return core


def probes(actions: list[ev.Action]) -> list[str]:
    return [a.kind for a in actions if isinstance(a, ev.RunProbe)]


def test_defaults_are_kubernetes() -> None:
    spec = ProbeSpec.from_dict({"exec": {"command": ["true"]}})
    assert (spec.initial_delay_s, spec.period_s, spec.timeout_s) == (0, 10, 1)
    assert (spec.success_threshold, spec.failure_threshold, spec.grace_s) == (1, 3, None)


def test_thresholds_count_consecutive_results() -> None:
    state = ProbeState(ProbeSpec({}, success_threshold=2, failure_threshold=2), due_at=0)
    assert not state.done(True, 0) and state.result is None
    assert not state.done(False, 0)
    assert not state.done(True, 0)
    assert state.done(True, 0) and state.result is True
    assert not state.done(False, 0) and state.result is True
    assert state.done(False, 0) and state.result is False


def test_without_probes_a_container_is_ready_when_started() -> None:
    assert Probes.for_container({}, T0).ready


def test_readiness_waits_for_its_delay_and_repeats_by_its_period() -> None:
    core = running(readinessProbe={"tcpSocket": {"port": 1}, "initialDelaySeconds": 5, "periodSeconds": 3})
    assert core.next_wake() == T0 + 5
    assert probes(core.handle(ev.Tick(), T0 + 4.9)) == []
    assert probes(core.handle(ev.Tick(), T0 + 5)) == ["readiness"]
    assert probes(core.handle(ev.Tick(), T0 + 9)) == [], "one at a time"
    core.handle(ev.ProbeDone("c", "id0", "readiness", True), T0 + 5.1)
    assert core.containers["c"].ready
    assert core.next_wake() == T0 + 8


def test_readiness_failure_makes_unready_and_kills_nothing() -> None:
    core = running(readinessProbe={"tcpSocket": {"port": 1}, "failureThreshold": 1})
    core.handle(ev.ProbeDone("c", "id0", "readiness", True), T0)
    out = core.handle(ev.ProbeDone("c", "id0", "readiness", False, "refused"), T0 + 1)
    assert not core.containers["c"].ready
    assert not [a for a in out if isinstance(a, ev.StopContainer)]
    assert [a.message for a in out if isinstance(a, ev.Emit)] == ["Readiness probe failed: refused"]


def test_a_success_with_a_warning_is_told_and_restarts_nothing() -> None:
    core = running(livenessProbe={"httpGet": {"port": 1}, "failureThreshold": 1})
    out = core.handle(ev.ProbeDone("c", "id0", "liveness", True, "it leads elsewhere", warning=True), T0)
    told = [(a.reason, a.message) for a in out if isinstance(a, ev.Emit)]
    assert told == [("ProbeWarning", "Liveness probe warning: it leads elsewhere")]
    assert not [a for a in out if isinstance(a, ev.StopContainer)]


def test_liveness_failure_restarts_with_the_probes_own_grace() -> None:
    probe = {"exec": {"command": ["x"]}, "failureThreshold": 2, "terminationGracePeriodSeconds": 4}
    core = running(livenessProbe=probe)
    assert not [
        a for a in core.handle(ev.ProbeDone("c", "id0", "liveness", False), T0) if isinstance(a, ev.StopContainer)
    ]
    out = core.handle(ev.ProbeDone("c", "id0", "liveness", False), T0 + 1)
    assert [a.grace_s for a in out if isinstance(a, ev.StopContainer)] == [4]
    assert "Container c failed liveness probe, will be restarted" in [a.message for a in out if isinstance(a, ev.Emit)]


def test_startup_holds_the_others_back() -> None:
    probe = {"tcpSocket": {"port": 1}}
    core = running(startupProbe=probe, livenessProbe=probe, readinessProbe=probe)
    assert not core.containers["c"].started
    out = core.handle(ev.ProbeDone("c", "id0", "startup", True), T0 + 1)
    assert probes(out) == ["liveness", "readiness"]
    assert core.containers["c"].started and not core.containers["c"].ready


def test_startup_failure_restarts() -> None:
    core = running(startupProbe={"tcpSocket": {"port": 1}, "failureThreshold": 1})
    out = core.handle(ev.ProbeDone("c", "id0", "startup", False), T0 + 1)
    assert [a for a in out if isinstance(a, ev.StopContainer)]


def test_results_of_an_earlier_run_do_not_count() -> None:
    core = running(livenessProbe={"tcpSocket": {"port": 1}, "failureThreshold": 1})
    out = core.handle(ev.ProbeDone("c", "older", "liveness", False), T0)
    assert not [a for a in out if isinstance(a, ev.StopContainer | ev.Emit)]


def test_liveness_rests_while_the_pod_ends() -> None:
    probe = {"tcpSocket": {"port": 1}, "failureThreshold": 1}
    core = running(livenessProbe=probe, terminationGracePeriodSeconds=30)
    core.handle(ev.PodGone(), T0)
    assert probes(core.handle(ev.Tick(), T0 + 20)) == []
