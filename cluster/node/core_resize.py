"""Changing what a running pod may use, without restarting it (KEP-1287).

Pure. Three sets of resources, as in Kubernetes: what the spec *wants*, what the machine has *allocated*, and what the
running container *actually* has.

    wanted != allocated --CheckResize--> fits:       allocated := wanted
                                         Deferred:   asked again, every few seconds
                                         Infeasible: never, until the spec changes
    allocated != actual --resizePolicy--> NotRequired:      ResizeContainer, in place
                                          RestartContainer: the container is stopped, and its next run has them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.pods import amounts
from cluster.node.core_container import ContainerState
from cluster.node.core_events import CheckResize, ContainerResized, ResizeChecked, ResizeContainer
from cluster.node.core_output import Output

Obj = dict[str, Any]
RETRY_S = 3.0
_RESIZABLE = ("cpu", "memory")


@dataclass(slots=True)
class ResizeState:
    """Of one pod. `pending`: (reason, message) while what is wanted is not allocated."""

    asking: bool = False
    answered: tuple[str, ...] = ()  # what the last answer was about
    pending: tuple[str, str] | None = None
    retry_at: float = 0.0

    def is_due(self, wanted: tuple[str, ...], now: float) -> bool:
        """Whether to ask whether there is room."""
        if self.asking:
            return False
        if wanted != self.answered or self.pending is None:
            return True
        return self.pending[0] == "Deferred" and now >= self.retry_at


def advance(
    resize: ResizeState,
    states: Mapping[str, ContainerState],
    out: Output,
    now: float,
    *,
    restart: Callable[[ContainerState], None],
) -> None:
    """One step from wanted to allocated, and from allocated to actual; `restart` those whose policy asks for it."""
    wanted = wanted_of(states.values())
    if not wants_resize(states.values()):
        resize.pending = None
    elif resize.is_due(wanted, now):
        resize.asking = True
        out.add(CheckResize(wanted, out.cause))
    for state in states.values():
        behind = resizable(state) and state.phase == "running" and not same(state.actual, state.allocated)
        if not behind or state.resizing or now < state.resize.at:
            continue
        if needs_restart(state):
            restart(state)
        else:
            state.resizing = True
            out.add(ResizeContainer(state.name, state.id, state.allocated, out.cause))


def checked(
    resize: ResizeState, states: Mapping[str, ContainerState], event: ResizeChecked, out: Output, now: float
) -> None:
    """The answer whether there is room: grant what is wanted, or show why not."""
    resize.asking = False
    if event.wanted != wanted_of(states.values()):
        return  # the spec changed meanwhile: it is asked about anew
    new = resize.pending is None or resize.pending[0] != event.reason
    resize.answered, resize.retry_at = event.wanted, now + RETRY_S
    resize.pending = (event.reason, event.message) if event.reason else None
    if event.reason:
        if new:
            out.emit("Warning", f"Resize{event.reason}", f"Pod resize {event.reason}: {event.message}")
        return
    out.emit("Normal", "ResizeStarted", "Pod resize started")
    for state in states.values():
        if resizable(state):
            state.allocated = state.spec.get("resources") or {}
            if not state.active:
                state.actual = state.allocated


def resized(states: Mapping[str, ContainerState], event: ContainerResized, out: Output, now: float) -> None:
    """What came of ResizeContainer."""
    state = states[event.name]
    if state.id != event.id:
        return
    state.resizing = False
    if event.error:
        state.resize.failed(now)
        if event.error != state.resize_error:
            out.emit("Warning", "ResizeError", f"Pod resize failed: {event.error}", state.name)
        state.resize_error = event.error
        return
    state.actual, state.resize_error = event.resources, ""
    state.resize.reset()
    if all(same(s.actual, s.allocated) for s in states.values() if resizable(s)):
        out.emit("Normal", "ResizeCompleted", "Pod resize completed")


def resizable(state: ContainerState) -> bool:
    return state.kind in ("main", "sidecar")


def wanted_of(states: Iterable[ContainerState]) -> tuple[str, ...]:
    """A key for what the spec asks for now."""
    return tuple(f"{s.name}={s.spec.get('resources') or {}}" for s in states if resizable(s))


def wants_resize(states: Iterable[ContainerState]) -> bool:
    return any(resizable(s) and not same(s.spec.get("resources") or {}, s.allocated) for s in states)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether cpu and memory are the same amounts, however written."""
    return all(_amounts(one, kind) == _amounts(other, kind) for kind in ("requests", "limits"))


def _amounts(resources: Mapping[str, Any], kind: str) -> dict[str, int]:
    return amounts({k: v for k, v in (resources.get(kind) or {}).items() if k in _RESIZABLE})


def needs_restart(state: ContainerState) -> bool:
    """Whether the resizePolicy of what changed asks for a restart."""
    policies = {p["resourceName"]: p["restartPolicy"] for p in state.spec.get("resizePolicy") or ()}
    for resource in _RESIZABLE:
        changed = any(
            _amounts(state.allocated, kind).get(resource) != _amounts(state.actual, kind).get(resource)
            for kind in ("requests", "limits")
        )
        if changed and policies.get(resource) == "RestartContainer":
            return True
    return False


def allocated_pod(pod: Obj, states: Mapping[str, ContainerState]) -> Obj:
    """The pod with the resources that were granted in place of those it wants; the same object when they are equal."""
    if not wants_resize(states.values()):
        return pod
    spec = dict(pod["spec"])
    for field in ("containers", "initContainers"):
        if spec.get(field):
            spec[field] = [
                {**c, "resources": states[c["name"]].allocated} if c["name"] in states else c for c in spec[field]
            ]
    return {**pod, "spec": spec}


def recall(state: ContainerState, known: Mapping[str, Any]) -> None:
    """Take over what an earlier kubelet had granted and set, from its last status of the container."""
    actual = known.get("resources")
    if not resizable(state) or actual is None:
        return
    state.actual = dict(actual)
    granted = dict(known.get("allocatedResources") or {})
    state.allocated = {**state.actual, "requests": granted} if granted else dict(actual)


def conditions(resize: ResizeState, states: Iterable[ContainerState]) -> list[tuple[str, str, str]]:
    """(type, reason, message) of the pod's conditions about its resize; absent ones are to be removed."""
    out = []
    if resize.pending is not None:
        out.append(("PodResizePending", *resize.pending))
    behind = [s for s in states if resizable(s) and s.active and not same(s.actual, s.allocated)]
    if behind:
        errors = [s.resize_error for s in behind if s.resize_error]
        out.append(("PodResizeInProgress", "Error" if errors else "", "; ".join(errors)))
    return out
