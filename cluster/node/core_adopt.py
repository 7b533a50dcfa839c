"""What a core makes of what ran before its kubelet did: the sandbox and containers that the engine has, and those it
lost.

Pure; changes the states it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.node import core_events as ev
from cluster.node.core_container import ContainerState
from cluster.node.core_events import ExitInfo
from cluster.node.core_resize import recall
from cluster.node.core_sandbox import SandboxState


def adopt(
    event: ev.Adopt, pod: dict[str, Any], sandbox: SandboxState, containers: Mapping[str, ContainerState], now: float
) -> bool:
    """Take over what the engine runs of `pod`; whether its init containers are behind it."""
    known = known_statuses(pod)
    if event.sandbox is not None:
        sandbox.adopt(event.sandbox)
    seen = {c.name: c for c in event.containers}
    for state in containers.values():
        if state.name in seen:
            adopt_container(state, seen[state.name], known.get(state.name, {}), now)
        elif state.name in known:
            remember_lost(state, known[state.name], now)
    mains = {c.name for c in containers.values() if c.kind == "main"}
    initialized = any(c.name in mains for c in event.containers if c.sandbox_id == sandbox.id)
    if initialized:
        for state in containers.values():
            if state.kind == "init" and not state.succeeded:
                state.end_run(ExitInfo("", 0, "Completed"), now)
    return initialized


def known_statuses(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The API's container statuses by name, of all kinds of containers."""
    status = pod.get("status") or {}
    kinds = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    return {s["name"]: s for kind in kinds for s in status.get(kind) or ()}


def adopt_container(state: ContainerState, seen: ev.SeenContainer, known: dict[str, Any], now: float) -> None:
    """The engine has a run of it; `known` is what the API's status says of the container."""
    recall(state, known)
    state.attempt = max(seen.attempt, int(known.get("restartCount") or 0))
    state.last = seen.previous
    same = str(known.get("containerID")).partition("://")[2] == seen.id
    if same:  # the spec may name another image since
        state.image = known.get("image") or state.image
    if seen.running:
        state.begin_run(seen.id, seen.image_id, seen.started_at, min(seen.started_at, now))
        state.probes.adopt(same and bool(known.get("started")), same and bool(known.get("ready")), now)
    elif seen.exit is not None:
        state.id, state.image_id, state.image_shown = seen.id, seen.image_id, state.image
        ended = _told(known, seen.exit)
        state.end_run(ended, min(ended.finished_at or now, now))


def _told(known: dict[str, Any], ended: ExitInfo) -> ExitInfo:
    """How that run ended; where the engine does not say, as the API was told before."""
    told = (known.get("state") or {}).get("terminated") or {}
    if ended.reason != "ContainerStatusUnknown" or str(told.get("containerID")).partition("://")[2] != ended.id:
        return ended
    said = (int(told.get("exitCode") or 0), str(told.get("reason") or ""), str(told.get("message") or ""))
    return ExitInfo(ended.id, *said, ended.started_at, ended.finished_at)


def remember_lost(state: ContainerState, known: dict[str, Any], now: float) -> None:
    """The API knows runs of a container that the engine no longer has."""
    state.attempt = int(known.get("restartCount") or 0)
    if not known.get("containerID"):
        return
    ended = (known.get("state") or {}).get("terminated")
    if ended:
        state.end_run(
            ExitInfo(
                "", int(ended.get("exitCode") or 0), str(ended.get("reason") or ""), str(ended.get("message") or "")
            ),
            now,
        )
    elif "running" in (known.get("state") or {}):
        gone = "The container could not be located when the pod was started again"
        state.end_run(ExitInfo("", 137, "ContainerStatusUnknown", gone), now)
