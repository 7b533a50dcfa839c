"""The pod state machine, driven by hand: one test per sentence of the pod lifecycle."""

from __future__ import annotations

import pytest

from cluster.api.errors import ApiError
from cluster.node import core_events as ev
from cluster.node.core import PodCore
from cluster.node.core_events import ExitInfo
from cluster.node.logs import run_of
from tests.support.pod_driver import T0, Driver, make_pod


def test_a_plain_pod_becomes_running_and_ready() -> None:
    d = Driver(make_pod())
    assert d.status["phase"] == "Running"
    assert d.status["podIP"] == "10.244.0.5"
    assert d.status["hostIP"] == "10.89.0.11"
    assert d.status["qosClass"] == "BestEffort"
    for kind in ("PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"):
        assert d.condition(kind) == "True"
    app = d.container("app")
    assert app["ready"] and app["started"] and app["restartCount"] == 0
    assert app["containerID"] == "docker://app-0"
    assert d.reasons() == ["Created", "Started"]


def test_a_start_outside_of_run_is_noticed() -> None:
    """Regression: the check that every test makes after every event looked where nothing ever was."""
    d = Driver(make_pod(), auto=False)
    assert d.of(ev.StartSandbox)
    d.core.mode = "finish"
    with pytest.raises(RuntimeError, match="outside of run"):
        d.core.validate()


def test_before_the_sandbox_containers_wait_as_container_creating() -> None:
    d = Driver(make_pod(), auto=False)
    assert d.status["phase"] == "Pending"
    assert d.container("app")["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert d.condition("Ready") == "False"
    assert d.condition("PodReadyToStartContainers") == "False"


def test_sandbox_and_volumes_are_made_at_the_same_time() -> None:
    d = Driver(make_pod(), auto=False)
    assert [type(a).__name__ for a in d.log[:2]] == ["MountVolumes", "StartSandbox"]
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    assert not d.of(ev.StartContainer)
    d.send(ev.VolumesReady())
    assert len(d.of(ev.StartContainer)) == 1


def test_init_containers_run_in_order_before_the_others() -> None:
    d = Driver(make_pod(initContainers=[{"name": "i1"}, {"name": "i2"}]))
    assert [a.name for a in d.of(ev.StartContainer)] == ["i1"]
    assert d.status["phase"] == "Pending"
    assert d.container("app")["state"]["waiting"]["reason"] == "PodInitializing"
    assert d.condition("Initialized") == "False"
    d.exit("i1", 0)
    assert [a.name for a in d.of(ev.StartContainer)] == ["i1", "i2"]
    d.exit("i2", 0)
    assert [a.name for a in d.of(ev.StartContainer)] == ["i1", "i2", "app"]
    assert d.condition("Initialized") == "True"
    assert d.container("i1")["ready"] is True
    assert d.status["phase"] == "Running"


def test_a_failed_init_container_is_retried_with_back_off() -> None:
    d = Driver(make_pod(initContainers=[{"name": "i"}]))
    d.exit("i", 1)
    assert len(d.of(ev.StartContainer)) == 2, "the first restart is immediate"
    d.exit("i", 1)
    assert len(d.of(ev.StartContainer)) == 2
    assert d.container("i")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    d.advance(10)
    assert len(d.of(ev.StartContainer)) == 3
    assert d.status["phase"] == "Pending"


def test_a_failed_init_container_fails_a_pod_that_never_restarts() -> None:
    d = Driver(make_pod(restartPolicy="Never", initContainers=[{"name": "i"}]))
    d.exit("i", 3)
    assert d.status["phase"] == "Failed"
    assert [a.name for a in d.of(ev.StartContainer)] == ["i"]
    assert d.of(ev.StopSandbox) and d.of(ev.ReleaseVolumes)
    assert not d.of(ev.DeleteObject)


def test_a_sidecar_starts_before_the_containers_and_ends_after_them() -> None:
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 1}
    side = {"name": "side", "restartPolicy": "Always", "startupProbe": probe}
    d = Driver(make_pod(initContainers=[side]))
    assert [a.name for a in d.of(ev.StartContainer)] == ["side"]
    d.send(ev.ProbeDone("side", "side-0", "startup", True))
    assert [a.name for a in d.of(ev.StartContainer)] == ["side", "app"]
    assert d.status["phase"] == "Running"
    d.pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    d.send(ev.PodSeen(d.pod))
    assert [a.name for a in d.of(ev.StopContainer)] == ["app", "side"]


def test_a_sidecar_does_not_keep_a_finished_pod_running() -> None:
    side = {"name": "side", "restartPolicy": "Always"}
    d = Driver(make_pod(restartPolicy="Never", initContainers=[side]))
    d.exit("app", 0)
    assert d.status["phase"] == "Succeeded"
    assert [a.name for a in d.of(ev.StopContainer)] == ["side"]


def test_crash_back_off_is_0_10_20_40_to_300_seconds() -> None:
    d = Driver(make_pod())
    delays = []
    for _ in range(8):
        d.now += 1
        d.exit("app", 1)
        began, starts = d.now, len(d.of(ev.StartContainer))
        if d.core.containers["app"].phase == "exited":
            wake = d.core.next_wake()
            assert wake is not None
            d.advance(wake - d.now - 0.001)
            assert len(d.of(ev.StartContainer)) == starts
            d.advance(0.001)
        delays.append(round(d.now - began))
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    assert d.container("app")["restartCount"] == 8
    assert d.container("app")["lastState"]["terminated"]["exitCode"] == 1


def test_crash_loop_back_off_is_worded_as_the_kubelets() -> None:
    d = Driver(make_pod())
    d.exit("app", 1)
    d.exit("app", 1)
    state = d.container("app")["state"]["waiting"]
    assert state == {
        "reason": "CrashLoopBackOff",
        "message": "back-off 10s restarting failed container=app pod=p_ns(u1)",
    }
    assert d.container("app")["lastState"]["terminated"]["reason"] == "Error"
    assert d.status["phase"] == "Running"
    assert d.reasons().count("BackOff") == 1


def test_a_long_run_resets_the_back_off() -> None:
    d = Driver(make_pod())
    d.exit("app", 1)
    d.exit("app", 1)
    d.advance(10)
    d.now += 601
    d.exit("app", 1)
    assert d.core.containers["app"].phase == "running", "restarted at once"
    d.exit("app", 1)
    assert "10s" in d.container("app")["state"]["waiting"]["message"]


def test_on_failure_restarts_failures_only() -> None:
    d = Driver(make_pod(restartPolicy="OnFailure", containers=[{"name": "a"}, {"name": "b"}]))
    d.exit("a", 1)
    d.exit("b", 0)
    assert d.container("a")["restartCount"] == 1
    assert d.container("b")["state"]["terminated"]["exitCode"] == 0
    assert d.status["phase"] == "Running"
    d.exit("a", 0)
    assert d.status["phase"] == "Succeeded"
    assert d.condition("Ready") == "False"


def test_never_leaves_the_pod_failed_and_frees_its_sandbox() -> None:
    d = Driver(make_pod(restartPolicy="Never"))
    d.exit("app", 137, "OOMKilled")
    assert d.status["phase"] == "Failed"
    assert d.container("app")["state"]["terminated"]["reason"] == "OOMKilled"
    assert d.status["podIP"] == "10.244.0.5"
    assert d.condition("PodReadyToStartContainers") == "False"
    assert not d.of(ev.RemovePod)


def test_deadline_ends_the_pod() -> None:
    d = Driver(make_pod(activeDeadlineSeconds=5))
    assert d.core.next_wake() == T0 + 5
    d.advance(5)
    assert (d.status["phase"], d.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert d.of(ev.StopContainer)


def test_deletion_stops_frees_removes_and_deletes_in_this_order() -> None:
    d = Driver(make_pod(terminationGracePeriodSeconds=7))
    d.log.clear()
    d.pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    d.pod["metadata"]["deletionGracePeriodSeconds"] = 5
    d.send(ev.PodSeen(d.pod))
    kinds = [type(a).__name__ for a in d.log if not isinstance(a, ev.Emit | ev.Report)]
    assert kinds == ["StopContainer", "StopSandbox", "ReleaseVolumes", "RemovePod", "DeleteObject", "Forget"]
    assert d.of(ev.StopContainer)[0].grace_s == 5
    assert d.status["phase"] == "Failed", "exit 143"
    assert d.core.mode == "done"
    assert "Killing" in d.reasons()


def test_a_shorter_grace_later_shortens_the_stop() -> None:
    d = Driver(make_pod())
    d.auto = False
    d.pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    d.pod["metadata"]["deletionGracePeriodSeconds"] = 30
    d.send(ev.PodSeen(d.pod))
    d.send(ev.PodSeen(d.pod))
    d.pod["metadata"]["deletionGracePeriodSeconds"] = 3
    d.send(ev.PodSeen(d.pod))
    d.send(ev.PodGone())
    assert [a.grace_s for a in d.of(ev.StopContainer)] == [30, 3, 2]


def test_force_deletion_needs_no_api_delete() -> None:
    d = Driver(make_pod())
    d.send(ev.PodGone())
    assert d.core.mode == "done"
    assert not d.of(ev.DeleteObject)


def test_deletion_while_the_sandbox_is_being_made_waits_for_it() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.PodGone())
    assert not d.of(ev.StopSandbox)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    assert not d.of(ev.StopSandbox), "volumes are still being mounted"
    d.send(ev.VolumesFailed("x"))
    assert d.of(ev.StopSandbox)
    assert not d.of(ev.StartContainer)


def test_deletion_while_a_container_starts_stops_it_once_started() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    d.send(ev.PodGone())
    assert not d.of(ev.StopContainer)
    d.send(ev.ContainerStarted("app", "c0", "i", d.now))
    assert [a.id for a in d.of(ev.StopContainer)] == ["c0"]


def test_an_exit_may_overtake_the_answer_to_the_start() -> None:
    d = Driver(make_pod(restartPolicy="Never"), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    d.send(ev.ContainerExited("app", ExitInfo("c0", 0, "Completed", "", T0, T0)))
    assert d.status["phase"] == "Pending"
    d.send(ev.ContainerStarted("app", "c0", "i", d.now))
    assert d.status["phase"] == "Succeeded"


def test_start_errors_back_off_as_crashes() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    for _ in range(2):
        d.send(ev.ContainerExited("app", ExitInfo("c", 128, "StartError", "no such file", T0, d.now)))
    assert d.container("app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert d.container("app")["lastState"]["terminated"]["reason"] == "StartError"
    assert d.reasons().count("Failed") == 2


def test_a_missing_image_waits_and_is_tried_again() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    d.send(ev.ContainerBlocked("app", "ErrImageNeverPull", "not present"))
    assert d.container("app")["state"]["waiting"] == {"reason": "ErrImageNeverPull", "message": "not present"}
    assert [e.message for e in d.of(ev.Emit) if e.reason == "Failed"] == ["Error: ErrImageNeverPull"]
    d.advance(5)
    assert [a.attempt for a in d.of(ev.StartContainer)] == [0, 0]
    d.send(ev.ContainerBlocked("app", "ErrImagePull", "registry away", pull=True))
    assert d.container("app")["state"]["waiting"]["reason"] == "ErrImagePull"
    d.advance(1)
    assert d.container("app")["state"]["waiting"]["reason"] == "ImagePullBackOff"
    d.advance(9)
    assert len(d.of(ev.StartContainer)) == 3
    d.send(ev.ContainerBlocked("app", "ErrImagePull", "registry away", pull=True))
    d.advance(1)
    assert d.core.next_wake() == d.now + 19


def test_failing_mounts_are_reported_and_retried() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.VolumesFailed('MountVolume.SetUp failed for volume "v" : configmap "x" not found'))
    assert "FailedMount" in d.reasons()
    assert d.core.next_wake() == T0 + 0.5
    d.advance(0.5)
    assert len(d.of(ev.MountVolumes)) == 2
    d.send(ev.VolumesFailed("not attached yet", waiting=True))
    assert d.reasons().count("FailedMount") == 1


def test_a_lost_sandbox_is_replaced_and_containers_restarted() -> None:
    d = Driver(make_pod(initContainers=[{"name": "i"}]))
    d.exit("i", 0)
    d.log.clear()
    d.send(ev.SandboxLost("sb0"))
    kinds = [type(a).__name__ for a in d.log if not isinstance(a, ev.Emit | ev.Report)]
    assert kinds == ["StopContainer", "StopSandbox", "StartSandbox", "StartContainer"]
    assert d.of(ev.StartSandbox)[0].attempt == 1
    d.exit("i", 0)
    assert d.container("app")["restartCount"] == 1
    assert d.status["phase"] == "Running"
    assert "SandboxChanged" in d.reasons()


def test_adoption_restarts_nothing_that_runs() -> None:
    seen = ev.SeenContainer("app", "c7", 2, True, "s", "sha256:1", T0 - 100)
    pod = make_pod()
    pod["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 1}}
    pod["status"] = {
        "phase": "Running",
        "startTime": "2023-11-14T00:00:00Z",
        "containerStatuses": [
            {"name": "app", "containerID": "docker://c7", "ready": True, "started": True, "restartCount": 2}
        ],
    }
    d = Driver(pod, adopt=ev.Adopt(ev.SeenSandbox("s", True, "10.244.0.9", 0), (seen,)))
    assert not d.of(ev.StartContainer) and not d.of(ev.StartSandbox)
    assert d.of(ev.MountVolumes)
    assert d.status["podIP"] == "10.244.0.9"
    assert d.status["startTime"] == "2023-11-14T00:00:00Z"
    assert d.container("app")["restartCount"] == 2
    assert d.condition("Ready") == "True", "readiness outlives the kubelet"
    assert d.of(ev.RunProbe)


def test_after_a_power_failure_the_pod_is_built_again() -> None:
    gone = ev.SeenContainer("app", "c0", 0, False, "s", "", T0 - 9, ExitInfo("c0", 137, "Error", "", T0 - 9, T0 - 1))
    d = Driver(make_pod(), adopt=ev.Adopt(ev.SeenSandbox("s", False, "", 0), (gone,)))
    assert d.of(ev.StopSandbox) and d.of(ev.StartSandbox)[0].attempt == 1
    assert d.container("app")["restartCount"] == 1
    assert d.status["phase"] == "Running"


@pytest.mark.parametrize(("told", "code"), [("docker://c0", 0), ("docker://another", 137)])
def test_an_end_that_the_engine_does_not_tell_is_as_the_api_was_told_before(told: str, code: int) -> None:
    pod = make_pod()
    ended = {"exitCode": 0, "reason": "Completed", "containerID": told}
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [{"name": "app", "containerID": told, "restartCount": 0, "state": {"terminated": ended}}],
    }
    unknown = ExitInfo("c0", 137, "ContainerStatusUnknown", "", T0 - 9, T0 - 1)
    seen = ev.SeenContainer("app", "c0", 0, False, "s", "", T0 - 9, unknown)
    d = Driver(pod, adopt=ev.Adopt(ev.SeenSandbox("s", True, "10.244.0.9", 0), (seen,)))
    assert d.container("app")["lastState"]["terminated"]["exitCode"] == code


def test_containers_that_the_engine_lost_keep_their_count() -> None:
    pod = make_pod()
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "app", "containerID": "docker://x", "restartCount": 4, "state": {"running": {}}}
        ],
    }
    d = Driver(pod)
    assert d.container("app")["restartCount"] == 5
    assert d.container("app")["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_a_pod_that_was_over_is_not_started_again() -> None:
    pod = make_pod()
    pod["status"] = {"phase": "Succeeded"}
    d = Driver(pod)
    assert not d.of(ev.StartSandbox) and not d.of(ev.MountVolumes)
    assert d.status["phase"] == "Succeeded"


def test_a_rejected_pod_fails_with_the_reason() -> None:
    pod = make_pod()
    d = Driver(pod, adopt=None, auto=False)
    core = PodCore(pod, "10.89.0.11", T0)
    actions = core.handle(ev.PodRejected("OutOfcpu", "Node didn't have enough resource: cpu"), T0)
    report = next(a for a in actions if isinstance(a, ev.Report))
    assert (report.status["phase"], report.status["reason"]) == ("Failed", "OutOfcpu")
    assert "containerStatuses" not in report.status
    assert not [a for a in actions if isinstance(a, ev.StartSandbox | ev.MountVolumes)]
    assert d.core.mode == "run"


def test_a_dead_container_is_kept_until_the_next_but_one_starts() -> None:
    d = Driver(make_pod())

    def logs(previous: bool) -> str:
        try:
            return run_of(d.container("app"), "p", previous=previous)
        except ApiError as err:
            assert err.code == 400
            return err.message

    none = 'previous terminated container "app" in pod "p" not found'
    assert (logs(False), logs(True)) == ("app-0", none)
    d.exit("app", 1)  # the first restart comes at once
    assert (logs(False), logs(True)) == ("app-1", "app-0")
    d.exit("app", 1)
    assert d.container("app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert (logs(False), logs(True)) == ("app-1", "app-1")
    d.advance(10)
    assert (logs(False), logs(True)) == ("app-2", "app-1")
    assert [a.id for a in d.of(ev.RemoveContainer)] == ["app-0"]
    d.exit("app", 1)
    assert (logs(False), logs(True)) == ("app-2", "app-2")
    assert [a.id for a in d.of(ev.RemoveContainer)] == ["app-0"]
    d.advance(20)
    assert [a.id for a in d.of(ev.RemoveContainer)] == ["app-0", "app-1"]


def test_a_container_that_never_ran_has_no_log() -> None:
    waiting = {"name": "c", "state": {"waiting": {"reason": "ErrImagePull"}}, "lastState": {}}
    lost = {"name": "c", "state": {"terminated": {"exitCode": 137}}, "lastState": {}}
    for status, message in (
        (waiting, 'container "c" in pod "p" is waiting to start: image can\'t be pulled'),
        (lost, 'container "c" in pod "p" is terminated'),
    ):
        with pytest.raises(ApiError) as e:
            run_of(status, "p", previous=False)
        assert (e.value.code, e.value.message) == (400, message)


def test_readiness_gates_hold_back_ready() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "x/y"}])
    d = Driver(pod)
    assert d.condition("Ready") == "False" and d.condition("ContainersReady") == "True"
    pod["status"] = {"phase": "Running", "conditions": [{"type": "x/y", "status": "True"}]}
    d.send(ev.PodSeen(pod))
    assert d.condition("Ready") == "True"


def test_a_failed_post_start_hook_restarts_the_container() -> None:
    d = Driver(make_pod())
    d.send(ev.PostStartFailed("app", "app-0", "hook failed"))
    assert d.container("app")["restartCount"] == 1
    assert "FailedPostStartHook" in d.reasons()
