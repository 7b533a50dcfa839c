"""The life of one pod on its node, as decisions: `handle(event, now) -> actions`.

Pure: no await, clock, random or logging. The shell (pod_worker.py) carries out the actions and feeds results back.

    RUN --all done, deadline, rejected--> FINISH (stop the rest, free sandbox and volumes; keep the object)
     |                                      |
     +--deletionTimestamp, object gone------+--> TERMINATE (the same, then remove, delete the object) --> DONE

Invariants:
- at most one action in flight for the sandbox, for the volumes, and for each container (a stop may be repeated with a
  shorter grace);
- nothing is started outside RUN; the sandbox goes only after all containers, volumes only after the sandbox;
- the API object is deleted only after everything on the machine is gone;
- a restart of the kubelet (Adopt) starts nothing that already runs.

Source: Kubernetes' pod lifecycle and the kubelet's behaviour; see the modules it is put together from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from cluster.api.meta import parse_time
from cluster.api.pods import qos_class
from cluster.node import core_backoff, core_resize
from cluster.node import core_events as ev
from cluster.node.core_adopt import adopt
from cluster.node.core_container import ContainerState, containers_of
from cluster.node.core_events import Action, Event
from cluster.node.core_output import Output
from cluster.node.core_probe import describe
from cluster.node.core_resize import ResizeState, allocated_pod, conditions
from cluster.node.core_sandbox import SandboxState, VolumesState
from cluster.node.core_status import PodView, final_phase, pod_status
from cluster.node.core_story import Step, Story

Mode = Literal["run", "finish", "terminate", "done"]
MIN_GRACE_S = 2.0


class PodCore:
    """One pod (one uid) on this node. Only `handle` changes it."""

    def __init__(
        self, pod: dict[str, Any], node_ip: str, now: float, runtime: str = "docker", node_ipv6: str = ""
    ) -> None:
        """`runtime`: the engine's name, which the ids in the status begin with."""
        self.pod = pod
        self.mode: Mode = "run"
        self.sandbox = SandboxState()
        self.volumes = VolumesState()
        self.containers = containers_of(pod)
        self.resize = ResizeState()
        self.initialized = False
        self.verdict: tuple[str, str, str] | None = None
        self.object_gone = False
        self._grace_limit_s: float | None = None
        self._disruption = ""
        self._removed: Literal["no", "removing", "removed"] = "no"
        self._deleting = False
        self._node_ip = node_ip
        self._node_ipv6 = node_ipv6
        self.runtime = runtime
        self._qos = qos_class(pod)
        self._policy = str(pod["spec"].get("restartPolicy") or "Always")
        started = (pod.get("status") or {}).get("startTime")
        self._start_time = parse_time(started) if started else now
        self._reported: dict[str, Any] | None = None
        self._out = Output()
        self._story = Story()
        self._look_at(pod)

    # ------------------------------------------------------------ the outside

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at `now`; returns the actions in the order to be begun."""
        self._out.begin()
        _HANDLERS[type(event)](self, event, now)
        self._reconcile(now)
        self._report()
        actions = self._out.take()
        self._story.add(self._out.cause, now, event, actions)
        return actions

    def next_wake(self) -> float | None:
        """When a Tick is due at the latest; None when only another event can change anything."""
        times = [t for c in self.containers.values() for t in self._container_wakes(c)]
        if self.mode == "run":
            times += self.sandbox.next_wake() + self.volumes.next_wake()
            deadline = self._deadline()
            if deadline is not None:
                times.append(deadline)
            if self.resize.pending is not None and self.resize.pending[0] == "Deferred":
                times.append(self.resize.retry_at)
        return min(times, default=None)

    @property
    def allocated(self) -> dict[str, Any]:
        """The pod with what the machine has granted it, which a resize that waits does not change."""
        return allocated_pod(self.pod, self.containers)

    def story(self) -> list[Step]:
        return self._story.steps()

    def validate(self) -> None:
        """Raise when an invariant is broken (called by tests after every event)."""
        if self.mode != "run" and any(isinstance(a, ev.StartContainer | ev.StartSandbox) for a in self._out.taken):
            raise RuntimeError("something was started outside of run")
        if self.sandbox.phase == "none" and any(c.phase == "running" for c in self.containers.values()):
            raise RuntimeError("a container runs without a sandbox")
        if self._removed != "no" and any(c.active for c in self.containers.values()):
            raise RuntimeError("the pod was removed while a container was active")

    # ------------------------------------------------------------ events

    def _on_pod(self, event: ev.PodSeen, now: float) -> None:
        self.pod = event.pod
        for name, fresh in containers_of(event.pod).items():
            if fresh.kind == "ephemeral":
                self.containers.setdefault(name, fresh)
        for spec in (*(event.pod["spec"].get("initContainers") or ()), *(event.pod["spec"].get("containers") or ())):
            state = self.containers.get(spec["name"])
            if state is not None:
                state.respecify(spec)
        self._look_at(event.pod)

    def _look_at(self, pod: dict[str, Any]) -> None:
        """What the object itself decides: it is being deleted, or it was over before this kubelet began."""
        status = pod.get("status") or {}
        if self.mode == "run" and status.get("phase") in ("Succeeded", "Failed"):
            self._decide(status["phase"], status.get("reason", ""), status.get("message", ""))
        if "deletionTimestamp" in pod["metadata"]:
            self._terminate()

    def _on_gone(self, event: ev.PodGone, now: float) -> None:
        self.object_gone = True
        self._terminate()

    def _on_rejected(self, event: ev.PodRejected, now: float) -> None:
        if self.mode == "run":
            self._emit("Warning", event.reason, event.message)
            self._decide("Failed", event.reason, f"Pod was rejected: {event.message}")

    def _on_evicted(self, event: ev.PodEvicted, now: float) -> None:
        if self.mode == "run":
            self._emit(event.event_type, event.reason, event.message)
            self._grace_limit_s, self._disruption = event.grace_s, event.message
            self._decide("Failed", event.reason, event.message)

    def _on_adopt(self, event: ev.Adopt, now: float) -> None:
        self.initialized = adopt(event, self.pod, self.sandbox, self.containers, now)

    def _on_volumes_ready(self, event: ev.VolumesReady, now: float) -> None:
        self.volumes.became_mounted()

    def _on_volumes_failed(self, event: ev.VolumesFailed, now: float) -> None:
        if event.waiting:
            self.volumes.wait(now)
            return
        self.volumes.failed(now)
        self._emit("Warning", "FailedMount", event.message)

    def _on_sandbox_ready(self, event: ev.SandboxReady, now: float) -> None:
        self.sandbox.became_ready(event)

    def _on_sandbox_failed(self, event: ev.SandboxFailed, now: float) -> None:
        self.sandbox.failed(now)
        self._emit("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {event.message}")

    def _on_sandbox_lost(self, event: ev.SandboxLost, now: float) -> None:
        if event.id == self.sandbox.id and self.sandbox.phase == "ready":
            self.sandbox.lost = True
            if self.mode == "run":
                self._emit("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")

    def _on_sandbox_stopped(self, event: ev.SandboxStopped, now: float) -> None:
        if self.sandbox.phase != "stopping":
            return
        self.sandbox.stopped()
        if self.mode == "run":
            self.sandbox.ip = self.sandbox.second_ip = ""
            self.initialized = False

    def _on_volumes_released(self, event: ev.VolumesReleased, now: float) -> None:
        self.volumes.phase = "released"

    def _on_removed(self, event: ev.PodRemoved, now: float) -> None:
        self._removed = "removed"

    def _on_blocked(self, event: ev.ContainerBlocked, now: float) -> None:
        state = self.containers[event.name]
        if state.phase != "starting":
            return
        state.block(event.reason, event.message, event.pull, now)
        if not event.pull:
            self._emit("Warning", "Failed", f"Error: {event.said}", state.name)

    def _on_started(self, event: ev.ContainerStarted, now: float) -> None:
        state = self.containers[event.name]
        if state.phase != "starting":
            return
        state.begin_run(event.id, event.image_id, event.at, now)
        self._emit("Normal", "Created", f"Created container: {state.name}", state.name)
        self._emit("Normal", "Started", f"Started container {state.name}", state.name)
        early, state.early_exit = state.early_exit, None
        if early is not None and early.exit.id == event.id:
            self._on_exited(early, now)

    def _on_exited(self, event: ev.ContainerExited, now: float) -> None:
        state = self.containers[event.name]
        if state.phase == "starting":
            if event.exit.reason == "StartError":
                self._emit("Warning", "Failed", f"Error: {event.exit.message}", state.name)
            else:
                state.early_exit = event  # the engine's event overtook the answer to our start
                return
        elif event.exit.id != state.id or not state.active:
            return
        state.end_run(event.exit, now)

    def _on_post_start_failed(self, event: ev.PostStartFailed, now: float) -> None:
        state = self.containers[event.name]
        if state.id == event.id and state.phase == "running":
            self._emit("Warning", "FailedPostStartHook", event.message, state.name)
            self._emit("Normal", "Killing", "FailedPostStartHook", state.name)
            self._stop(state, self._grace(), pre_stop=True)

    def _on_probe(self, event: ev.ProbeDone, now: float) -> None:
        state = self.containers[event.name]
        probe = state.probes.states.get(event.kind)
        if state.id != event.id or probe is None or not state.active:
            return
        if not event.ok:
            self._emit("Warning", "Unhealthy", f"{describe(event.kind)} probe failed: {event.output}", state.name)
        elif event.warning:
            self._emit("Warning", "ProbeWarning", f"{describe(event.kind)} probe warning: {event.output}", state.name)
        decided = probe.done(event.ok, now)
        if decided and not probe.result and event.kind != "readiness" and state.phase == "running":
            kind = describe(event.kind).lower()
            self._emit(
                "Normal", "Killing", f"Container {state.name} failed {kind} probe, will be restarted", state.name
            )
            grace = self._grace() if probe.spec.grace_s is None else probe.spec.grace_s
            self._stop(state, grace, pre_stop=True)

    def _on_resize_checked(self, event: ev.ResizeChecked, now: float) -> None:
        core_resize.checked(self.resize, self.containers, event, self._out, now)

    def _on_resized(self, event: ev.ContainerResized, now: float) -> None:
        core_resize.resized(self.containers, event, self._out, now)

    def _on_tick(self, event: ev.Tick, now: float) -> None:
        return

    # ------------------------------------------------------------ decisions

    def _reconcile(self, now: float) -> None:
        if self.mode == "run":
            self._check_finished(now)
        if self.mode == "run":
            self._advance(now)
        elif self.mode != "done":
            self._wind_down()
        self._poll_probes(now)

    def _decide(self, phase: str, reason: str = "", message: str = "") -> None:
        if self.verdict is None:
            self.verdict = (phase, reason, message)
        if self.mode == "run":
            self.mode = "finish"

    def _terminate(self) -> None:
        if self.mode in ("run", "finish"):
            self.mode = "terminate"

    def _deadline(self) -> float | None:
        limit = self.pod["spec"].get("activeDeadlineSeconds")
        return None if limit is None else self._start_time + float(limit)

    def _check_finished(self, now: float) -> None:
        deadline = self._deadline()
        if deadline is not None and now >= deadline:
            why = "Pod was active on the node longer than the specified deadline"
            self._emit("Normal", "DeadlineExceeded", why)
            self._decide("Failed", "DeadlineExceeded", why)
            return
        states = list(self.containers.values())
        for state in states:
            over = state.phase == "exited" and not state.wants_restart(self._policy)
            if state.kind == "init" and over and not state.succeeded:
                self._decide("Failed")
                return
        mains = [s for s in states if s.kind == "main"]
        if mains and all(s.phase == "exited" and not s.wants_restart(self._policy) for s in mains):
            self._decide("Succeeded" if all(s.succeeded for s in mains) else "Failed")

    def _advance(self, now: float) -> None:
        if self.sandbox.lost:
            self._replace_sandbox()
            return
        if self.volumes.is_due(now):
            self.volumes.phase = "mounting"
            self._out.add(ev.MountVolumes(self._out.cause))
        if self.sandbox.is_due(now):
            self.sandbox.phase = "starting"
            self._out.add(ev.StartSandbox(self.sandbox.attempt, self._out.cause))
        if self.volumes.phase == "mounted" and self.sandbox.phase == "ready":
            self._advance_containers(now)
            core_resize.advance(self.resize, self.containers, self._out, now, restart=self._restart_resized)

    def _restart_resized(self, state: ContainerState) -> None:
        self._emit("Normal", "Killing", f"Container {state.name} resize requires restart", state.name)
        self._stop(state, self._grace(), pre_stop=True)

    def _replace_sandbox(self) -> None:
        """The pause container is gone and the network with it: stop all, then build anew."""
        active = [c for c in self.containers.values() if c.active]
        for state in active:
            if state.phase == "running":
                self._stop(state, MIN_GRACE_S, pre_stop=False)
        if not active and self.sandbox.phase == "ready":
            self.sandbox.phase = "stopping"
            self._out.add(ev.StopSandbox(self.sandbox.id, self._out.cause))
            for state in self.containers.values():
                if state.kind == "init" and state.phase == "exited":
                    self._drop_last(state)
                    state.last, state.exit = state.exit, None
                    state.phase, state.waiting_reason = "waiting", ""

    def _replace_outdated(self) -> None:
        for state in self.containers.values():
            if state.kind in ("main", "sidecar") and state.outdated:
                message = f"Container {state.name} definition changed, will be restarted"
                self._emit("Normal", "Killing", message, state.name)
                state.replacing = True
                self._stop(state, self._grace(), pre_stop=True)

    def _advance_containers(self, now: float) -> None:
        self._replace_outdated()
        for state in self.containers.values():
            if state.kind == "ephemeral":
                self._start_if_due(state, now)
        if not self.initialized:
            for state in self.containers.values():
                if state.kind not in ("init", "sidecar"):
                    continue
                if state.kind == "init" and state.succeeded:
                    continue
                self._start_if_due(state, now)
                if not (state.kind == "sidecar" and state.started):
                    return
            self.initialized = True
        for state in self.containers.values():
            if state.kind in ("main", "sidecar"):
                self._start_if_due(state, now)

    def _drop_last(self, state: ContainerState) -> None:
        """A newer run is about to become the last one: until then its log can be asked for (lastState, --previous)."""
        if state.exit is not None and state.last is not None and state.last.id not in ("", state.exit.id):
            self._out.add(ev.RemoveContainer(state.last.id, self._out.cause))

    def _start_if_due(self, state: ContainerState, now: float) -> None:
        if state.active:
            return
        if state.phase == "exited" and not state.wants_restart(self._policy):
            return
        if now < state.try_at():
            core_backoff.show(state, self.pod, self._out, now)
            return
        self._drop_last(state)
        state.begin_start(now)
        self._out.add(ev.StartContainer(state.name, state.attempt, self._out.cause))

    def _grace(self) -> float:
        """Seconds a container of this pod gets to end by itself, from the deletion or the spec."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        grace = meta.get("deletionGracePeriodSeconds")
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds")
        value = 30.0 if grace is None else float(grace)
        if self.object_gone:
            value = 0.0
        value = max(value, MIN_GRACE_S)
        return value if self._grace_limit_s is None else min(value, self._grace_limit_s)

    def _stop(self, state: ContainerState, grace_s: float, *, pre_stop: bool) -> None:
        grace_s = max(grace_s, MIN_GRACE_S if self._grace_limit_s is None else 0.0)
        if state.phase == "stopping" and grace_s >= state.stop_grace_s:
            return
        state.phase, state.stop_grace_s = "stopping", grace_s
        self._out.add(ev.StopContainer(state.name, state.id, grace_s, pre_stop, self._out.cause))

    def _wind_down(self) -> None:
        states = list(self.containers.values())
        if self._stop_these([c for c in states if c.kind != "sidecar"]):
            return
        for sidecar in reversed([c for c in states if c.kind == "sidecar"]):
            if self._stop_these([sidecar]):
                return
        if self.mode == "terminate" and self.verdict is None:
            self.verdict = (final_phase(states), "", "")
        if self.sandbox.phase in ("starting", "stopping") or self.volumes.phase in ("mounting", "releasing"):
            return
        if self.sandbox.phase == "ready":
            self.sandbox.phase = "stopping"
            self._out.add(ev.StopSandbox(self.sandbox.id, self._out.cause))
        elif self.volumes.phase != "released":
            self.volumes.phase = "releasing"
            self._out.add(ev.ReleaseVolumes(self._out.cause))
        elif self.mode == "terminate":
            self._remove()

    def _stop_these(self, states: Iterable[ContainerState]) -> bool:
        """Stop what runs; True while any of them is still active."""
        active = [c for c in states if c.active]
        for state in active:
            if state.phase == "running":
                self._emit("Normal", "Killing", f"Stopping container {state.name}", state.name)
            if state.phase != "starting":
                self._stop(state, self._grace(), pre_stop=not self.sandbox.lost)
        return bool(active)

    def _remove(self) -> None:
        if self._removed == "no":
            self._removed = "removing"
            self._out.add(ev.RemovePod(self._out.cause))
        elif self._removed == "removed" and self.object_gone:
            self.mode = "done"
            self._out.add(ev.Forget(self._out.cause))
        elif self._removed == "removed" and not self._deleting:
            self._report()
            self._deleting = True
            self._out.add(ev.DeleteObject(self._out.cause))

    def _poll_probes(self, now: float) -> None:
        winding_down = self.mode != "run"
        for state in self.containers.values():
            if state.phase != "running" or state.kind == "init":
                continue
            for kind, probe in state.probes.active(winding_down):
                if probe.is_due(now):
                    probe.begin(now)
                    self._out.add(ev.RunProbe(state.name, state.id, kind, self._out.cause))

    def _container_wakes(self, state: ContainerState) -> list[float]:
        if state.phase == "running":
            wake = state.probes.next_wake(self.mode != "run")
            times = [] if wake is None else [wake]
            return [*times, state.resize.at] if state.resize_error and not state.resizing else times
        if self.mode != "run" or state.active:
            return []
        return core_backoff.next_wake(state, self._policy)

    # ------------------------------------------------------------ output

    def _emit(self, type_: Literal["Normal", "Warning"], reason: str, message: str, container: str = "") -> None:
        self._out.emit(type_, reason, message, container)

    def _report(self) -> None:
        if self.object_gone or self._deleting:
            return
        status = self.status()
        if status != self._reported:
            self._reported = status
            self._out.add(ev.Report(status, self._out.cause))

    def status(self) -> dict[str, Any]:
        """The status as of the last event; conditions without their times."""
        view = PodView(
            pod=self.pod,
            node_ip=self._node_ip,
            qos_class=self._qos,
            start_time=self._start_time,
            ip=self.sandbox.ip,
            second_ip=self.sandbox.second_ip,
            second_node_ip=self._node_ipv6,
            sandbox_ready=self.sandbox.phase == "ready" and not self.sandbox.lost,
            initialized=self.initialized,
            runtime=self.runtime,
            verdict=self.verdict,
            disruption=self._disruption,
            resize=conditions(self.resize, self.containers.values()),
        )
        return pod_status(view, list(self.containers.values()))


_HANDLERS: dict[type, Callable[..., None]] = {
    ev.PodSeen: PodCore._on_pod,
    ev.PodGone: PodCore._on_gone,
    ev.PodRejected: PodCore._on_rejected,
    ev.PodEvicted: PodCore._on_evicted,
    ev.Adopt: PodCore._on_adopt,
    ev.VolumesReady: PodCore._on_volumes_ready,
    ev.VolumesFailed: PodCore._on_volumes_failed,
    ev.SandboxReady: PodCore._on_sandbox_ready,
    ev.SandboxFailed: PodCore._on_sandbox_failed,
    ev.SandboxLost: PodCore._on_sandbox_lost,
    ev.SandboxStopped: PodCore._on_sandbox_stopped,
    ev.VolumesReleased: PodCore._on_volumes_released,
    ev.PodRemoved: PodCore._on_removed,
    ev.ContainerBlocked: PodCore._on_blocked,
    ev.ContainerStarted: PodCore._on_started,
    ev.ContainerExited: PodCore._on_exited,
    ev.PostStartFailed: PodCore._on_post_start_failed,
    ev.ProbeDone: PodCore._on_probe,
    ev.ResizeChecked: PodCore._on_resize_checked,
    ev.ContainerResized: PodCore._on_resized,
    ev.Tick: PodCore._on_tick,
}
