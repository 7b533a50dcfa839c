"""What a kubelet did for one pod, when: its core's story in plain words. Pure.

Of a story only what a reader of a pod's start and end wants: each step once, probes when they first passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cluster.node import core_events as ev

Entry = tuple[int, float, Any, tuple[Any, ...]]
"""(number, time, event, actions), as `PodCore.story` gives them."""


def told(story: Iterable[Entry]) -> list[dict[str, Any]]:
    """[{"at": seconds since the epoch, "step": one of the words below, "about": what it was about}], in order."""
    once: set[tuple[str, str]] = set()
    out: list[dict[str, Any]] = []
    for _, at, event, actions in story:
        if not out:
            out.append({"at": at, "step": "seen", "about": ""})
        for step, about in (*_of_event(event), *(pair for action in actions for pair in _of_action(action))):
            if step in _ONCE and (step, about) in once:
                continue
            once.add((step, about))
            out.append({"at": at, "step": step, "about": about})
    return out


_ONCE = frozenset({"probe passed", "volumes mounted"})


def _of_event(event: Any) -> Iterator[tuple[str, str]]:
    match event:
        case ev.PodRejected(reason, message):
            yield "rejected", f"{reason}: {message}"
        case ev.VolumesReady():
            yield "volumes mounted", ""
        case ev.SandboxReady(_, ip, _):
            yield "sandbox ready", ip
        case ev.SandboxFailed(message):
            yield "sandbox failed", message
        case ev.ContainerStarted():
            yield "container started", event.name
        case ev.ContainerBlocked():
            yield "container blocked", f"{event.name}: {event.reason}"
        case ev.ContainerExited():
            yield "container ended", f"{event.name}: {event.exit.reason}, {event.exit.exit_code}"
        case ev.ProbeDone() if event.ok:
            yield "probe passed", f"{event.name}, {event.kind}"


def _of_action(action: Any) -> Iterator[tuple[str, str]]:
    match action:
        case ev.StartSandbox():
            yield "sandbox begun", ""
        case ev.StartContainer():
            yield "container begun", action.name
