"""What `kubectl get` prints for pods: readiness, the status word, restarts. Pure.

The status word follows Kubernetes' printPod: phase, then the pod's reason, then the first init container that is not
done, then the containers from last to first, then deletion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.api.meta import parse_time
from cluster.apiserver.tables import (
    AGE,
    NAME,
    Cells,
    Object,
    Printer,
    age,
    at,
    col,
    human_duration,
    name_of,
    text,
    wide,
)


def _condition(pod: Object, kind: str) -> Mapping[str, Any] | None:
    for c in at(pod, "status", "conditions") or ():
        if c.get("type") == kind:
            found: Mapping[str, Any] = c
            return found
    return None


def _terminated_word(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


class _Restarts:
    """Restart counts and the latest time one happened."""

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0

    def add(self, status: Mapping[str, Any]) -> None:
        self.count += int(status.get("restartCount") or 0)
        finished = at(status, "lastState", "terminated", "finishedAt")
        if finished:
            self.last = max(self.last, parse_time(finished))

    def text(self, now: float) -> str:
        if self.count and self.last:
            return f"{self.count} ({human_duration(now - self.last)} ago)"
        return str(self.count)


def _init_word(pod: Object, restarts: _Restarts, sidecar_restarts: _Restarts) -> tuple[str, int]:
    """The status word while init containers run ("" when they are done), and how many sidecars are ready."""
    declared = at(pod, "spec", "initContainers") or []
    sidecars = {c["name"] for c in declared if c.get("restartPolicy") == "Always"}
    ready = 0
    for i, status in enumerate(at(pod, "status", "initContainerStatuses") or ()):
        restarts.add(status)
        sidecar = status.get("name") in sidecars
        if sidecar:
            sidecar_restarts.add(status)
        terminated, waiting = at(status, "state", "terminated"), at(status, "state", "waiting")
        if terminated is not None and not int(terminated.get("exitCode") or 0):
            continue
        if sidecar and status.get("started"):
            ready += bool(status.get("ready"))
            continue
        if terminated is not None:
            return "Init:" + _terminated_word(terminated), ready
        if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}", ready
        return f"Init:{i}/{len(declared)}", ready
    return "", ready


def _container_word(pod: Object, word: str, restarts: _Restarts) -> tuple[str, int]:
    """The status word once init is over, and how many containers are ready."""
    ready, running = 0, False
    for status in reversed(at(pod, "status", "containerStatuses") or []):
        restarts.add(status)
        state = status.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            word = str(waiting["reason"])
        elif terminated is not None:
            word = _terminated_word(terminated)
        elif status.get("ready") and state.get("running") is not None:
            running = True
            ready += 1
    if word == "Completed" and running:
        condition = _condition(pod, "Ready")
        word = "Running" if condition is not None and condition.get("status") == "True" else "NotReady"
    return word, ready


def _status(pod: Object) -> tuple[str, int, int, _Restarts]:
    """(status word, ready, total, restarts)."""
    declared = at(pod, "spec", "initContainers") or []
    total = len(at(pod, "spec", "containers") or []) + sum(c.get("restartPolicy") == "Always" for c in declared)
    word = text(pod, "status", "reason") or text(pod, "status", "phase")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("reason") == "SchedulingGated":
        word = "SchedulingGated"
    init_restarts, restarts = _Restarts(), _Restarts()
    init_word, ready = _init_word(pod, init_restarts, restarts)
    initialized = _condition(pod, "Initialized")
    if init_word and not (initialized is not None and initialized.get("status") == "True"):
        word, restarts = init_word, init_restarts
    else:
        word, more = _container_word(pod, word, restarts)
        ready += more
    if at(pod, "metadata", "deletionTimestamp"):
        if text(pod, "status", "reason") == "NodeLost":
            word = "Unknown"
        elif text(pod, "status", "phase") not in ("Failed", "Succeeded"):
            word = "Terminating"
    return word, ready, total, restarts


def _gates(pod: Object) -> str:
    gates = at(pod, "spec", "readinessGates") or []
    if not gates:
        return "<none>"
    true = 0
    for gate in gates:
        condition = _condition(pod, str(gate.get("conditionType")))
        true += condition is not None and condition.get("status") == "True"
    return f"{true}/{len(gates)}"


def _pod(pod: Object, now: float) -> Cells:
    word, ready, total, restarts = _status(pod)
    ips = at(pod, "status", "podIPs") or []
    return [
        name_of(pod),
        f"{ready}/{total}",
        word,
        restarts.text(now),
        age(pod, now),
        str(ips[0].get("ip")) if ips else text(pod, "status", "podIP", default="<none>"),
        text(pod, "spec", "nodeName", default="<none>"),
        text(pod, "status", "nominatedNodeName", default="<none>"),
        _gates(pod),
    ]


PRINTERS = {
    "pods": Printer(
        (
            NAME,
            col("Ready"),
            col("Status"),
            col("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ),
        _pod,
    )
}
