"""The pod's status as Kubernetes words it, computed from what the core knows.

Pure. Invariant: the same state gives the same status (no clock in it beyond the times of things that happened), so
that a status is written only when something changed. Source: Kubernetes' API reference (PodStatus) and the pod
lifecycle page; a container that was started at least once counts as stopped, not as waiting, for the phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.api.meta import rfc3339
from cluster.node.core_container import ContainerState
from cluster.node.core_events import ExitInfo

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodView:
    """What the status is made of besides the containers."""

    pod: Mapping[str, Any]
    node_ip: str
    qos_class: str
    start_time: float
    ip: str
    sandbox_ready: bool
    initialized: bool
    runtime: str
    verdict: tuple[str, str, str] | None  # (phase, reason, message) once decided for good
    resize: Sequence[tuple[str, str, str]] = ()  # (type, reason, message)
    second_ip: str = ""  # of the other family, in a dual-stack cluster
    second_node_ip: str = ""
    disruption: str = ""  # why this kubelet ended the pod before its time


def _image_ref(runtime: str, image_id: str) -> str:
    """Docker has but the id of an image, which says whose it is; other engines name what was pulled."""
    return f"docker://{image_id}" if image_id and runtime == "docker" else image_id


def terminated(run: ExitInfo, runtime: str) -> Status:
    state: Status = {"exitCode": run.exit_code, "reason": run.reason}
    if run.message:
        state["message"] = run.message
    if run.started_at:
        state["startedAt"] = rfc3339(run.started_at)
    if run.finished_at:
        state["finishedAt"] = rfc3339(run.finished_at)
    if run.id:
        state["containerID"] = f"{runtime}://{run.id}"
    return {"terminated": state}


def _waiting(container: ContainerState, default: str) -> Status:
    state: Status = {"reason": container.waiting_reason or default}
    if container.waiting_message:
        state["message"] = container.waiting_message
    return {"waiting": state}


def _state(container: ContainerState, default: str, runtime: str) -> tuple[Status, Status]:
    """(state, lastState)"""
    last = terminated(container.last, runtime) if container.last else {}
    if container.phase in ("running", "stopping"):
        return {"running": {"startedAt": rfc3339(container.started_at)}}, last
    if container.phase == "exited" and container.exit is not None:
        if container.waiting_reason:  # CrashLoopBackOff: the run that ended is the last one now
            return _waiting(container, default), terminated(container.exit, runtime)
        return terminated(container.exit, runtime), last
    return _waiting(container, default), last


def container_status(container: ContainerState, default: str, runtime: str) -> Status:
    """`runtime`: the engine's name, which ids begin with."""
    state, last = _state(container, default, runtime)
    current = container.id or (container.exit.id if container.exit else "")
    if not current and container.last:
        current = container.last.id
    status: Status = {
        "name": container.name,
        "image": container.image_shown or container.spec.get("image", ""),
        "imageID": _image_ref(runtime, container.image_id),
        "ready": container.ready,
        "restartCount": container.attempt,
        "state": state,
        "lastState": last,
        "started": container.started,
        **_volume_mounts(container.spec),
    }
    if current:
        status["containerID"] = f"{runtime}://{current}"
    if container.kind in ("main", "sidecar") and container.active:
        status["resources"] = {k: v for k, v in container.actual.items() if k in ("requests", "limits")}
        if container.allocated.get("requests"):
            status["allocatedResources"] = container.allocated["requests"]
    return status


def _volume_mounts(spec: Mapping[str, Any]) -> Status:
    """KEP-3857: what is mounted, and whether read-only holds below the mount point (no engine here can do that)."""
    mounts = []
    for mount in spec.get("volumeMounts") or ():
        shown = {"name": mount["name"], "mountPath": mount["mountPath"]}
        if mount.get("readOnly"):
            shown |= {"readOnly": True, "recursiveReadOnly": "Disabled"}
        mounts.append(shown)
    return {"volumeMounts": mounts} if mounts else {}


def phase_of(containers: Sequence[ContainerState], policy: str) -> str:
    """The phase from the containers alone; the core's verdict comes before it."""
    pending_init = any(c.kind == "init" and not c.succeeded for c in containers)
    sidecars_unstarted = any(c.kind == "sidecar" and not c.started and c.exit is None for c in containers)
    if pending_init and any(
        c.kind == "init" and c.phase == "exited" and not c.wants_restart(policy) and not c.succeeded for c in containers
    ):
        return "Failed"
    mains = [c for c in containers if c.kind == "main"]
    stopped = [c for c in mains if c.exit is not None or c.last is not None]
    running = [c for c in mains if c.phase in ("running", "stopping")]
    if not stopped and not running and (pending_init or sidecars_unstarted):
        return "Pending"
    if len(set(map(id, stopped + running))) < len(mains):
        return "Pending"
    if running or any(c.wants_restart(policy) or c.phase != "exited" for c in mains):
        return "Running"
    return "Succeeded" if all(c.succeeded for c in mains) else "Failed"


def final_phase(containers: Sequence[ContainerState]) -> str:
    """The phase of a pod whose containers have all been stopped for good."""
    mains = [c for c in containers if c.kind == "main"]
    failed_init = any(c.kind == "init" and c.exit is not None and c.exit.exit_code != 0 for c in containers)
    if mains and not failed_init and all(c.succeeded for c in mains):
        return "Succeeded"
    return "Failed"


def _condition(kind: str, ok: bool, reason: str = "", message: str = "") -> Status:
    condition: Status = {"type": kind, "status": "True" if ok else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _names(containers: Sequence[ContainerState]) -> str:
    return "[" + " ".join(c.name for c in containers) + "]"


def conditions(view: PodView, containers: Sequence[ContainerState], phase: str) -> list[Status]:
    """The conditions the kubelet owns, without their times."""
    over = _OVER.get(phase, "")
    out = [_condition("PodReadyToStartContainers", view.sandbox_ready)]
    incomplete = [
        c for c in containers if (c.kind == "init" and not c.succeeded) or (c.kind == "sidecar" and not c.started)
    ]
    if view.initialized or phase == "Succeeded" or not incomplete:
        out.append(_condition("Initialized", True, over if phase == "Succeeded" else ""))
    else:
        why = f"containers with incomplete status: {_names(incomplete)}"
        out.append(_condition("Initialized", False, "ContainersNotInitialized", why))
    ready, containers_ready = _readiness(view, containers, over)
    out += [ready, containers_ready, _condition("PodScheduled", True)]
    out += [_condition(kind, True, reason, message) for kind, reason, message in view.resize]
    if view.disruption and over:
        out.append(_condition("DisruptionTarget", True, "TerminationByKubelet", view.disruption))
    return out


_OVER = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}


def _told(view: PodView) -> str:
    """The phase that was told before and is not taken back; "" while the pod may go on."""
    phase = str((view.pod.get("status") or {}).get("phase") or "")
    return phase if phase in _OVER else ""


def _verdict(view: PodView, containers: Sequence[ContainerState]) -> tuple[str, str, str] | None:
    """What was decided, once no container can be running: a pod that is said to be over may be made anew elsewhere at
    once."""
    return view.verdict if _told(view) or not any(c.active for c in containers) else None


def _phase(view: PodView, containers: Sequence[ContainerState]) -> str:
    """Without a verdict. A sidecar or an ephemeral container that still runs keeps the pod from being over."""
    found = _told(view) or phase_of(containers, str(view.pod["spec"].get("restartPolicy") or "Always"))
    if found in _OVER and not _told(view) and any(c.active for c in containers):
        return "Running" if view.initialized else "Pending"
    return found


def _readiness(view: PodView, containers: Sequence[ContainerState], over: str) -> tuple[Status, Status]:
    unready = [c for c in containers if c.kind in ("main", "sidecar") and not c.ready]
    if over:
        return _condition("Ready", False, over), _condition("ContainersReady", False, over)
    if unready:
        why = f"containers with unready status: {_names(unready)}"
        return (
            _condition("Ready", False, "ContainersNotReady", why),
            _condition("ContainersReady", False, "ContainersNotReady", why),
        )
    ready = _condition("Ready", True)
    if view.verdict:  # it is being ended: Services send elsewhere while its preStop hooks run
        ready = _condition("Ready", False, _OVER[view.verdict[0]], view.verdict[2])
    elif gates := _closed_gates(view.pod):
        ready = _condition("Ready", False, "ReadinessGatesNotReady", "; ".join(gates))
    return ready, _condition("ContainersReady", True)


def _closed_gates(pod: Mapping[str, Any]) -> list[str]:
    known = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}
    closed = []
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        condition = known.get(kind)
        if condition is None:
            closed.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif condition.get("status") != "True":
            closed.append(f'the status of pod readiness gate "{kind}" is not "True", but {condition.get("status")}')
    return closed


def _observed(pod: Mapping[str, Any]) -> Status:
    """KEP-5067: which generation of the spec a status is about."""
    generation = pod["metadata"].get("generation")
    return {"observedGeneration": generation} if generation else {}


def _ips(*addresses: str) -> list[Status]:
    return [{"ip": address} for address in addresses if address]


def pod_status(view: PodView, containers: Sequence[ContainerState]) -> Status:
    """The whole status the kubelet owns; conditions without their times."""
    verdict = _verdict(view, containers)
    phase = verdict[0] if verdict else _phase(view, containers)
    inits = [c for c in containers if c.kind in ("init", "sidecar")]
    waiting = "PodInitializing" if inits else "ContainerCreating"
    seen = _observed(view.pod)
    status: Status = {
        "phase": phase,
        "qosClass": view.qos_class,
        "startTime": rfc3339(view.start_time),
        "conditions": [{**c, **seen} for c in conditions(view, containers, phase)],
        **seen,
    }
    if view.node_ip:  # a hollow node has none
        status["hostIP"], status["hostIPs"] = view.node_ip, _ips(view.node_ip, view.second_node_ip)
    if verdict and verdict[1]:
        status["reason"] = verdict[1]
    if verdict and verdict[2]:
        status["message"] = verdict[2]
    if verdict and not any(c.ran or c.active or c.exit or c.last for c in containers):
        return status  # rejected before anything ran: no container statuses, as the kubelet's
    if view.ip:
        status["podIP"] = view.ip
        status["podIPs"] = _ips(view.ip, view.second_ip)
    status["containerStatuses"] = [
        container_status(c, waiting, view.runtime) for c in sorted(containers, key=lambda c: c.name) if c.kind == "main"
    ]
    if inits:
        status["initContainerStatuses"] = [container_status(c, waiting, view.runtime) for c in inits]
    ephemeral = [c for c in containers if c.kind == "ephemeral"]
    if ephemeral:
        status["ephemeralContainerStatuses"] = [
            container_status(c, "ContainerCreating", view.runtime) for c in ephemeral
        ]
    return status
