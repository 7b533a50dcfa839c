"""Drives a pod's state machine by hand: a shell that does at once what the core asks for, and records it."""

from __future__ import annotations

from typing import Any

from cluster.node import core_events as ev
from cluster.node.core import PodCore
from cluster.node.core_events import ExitInfo

T0 = 1_700_000_000.0


def make_pod(**spec: Any) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "app", "image": "img:1"}])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
        "spec": {"restartPolicy": "Always", **spec},
    }


class Driver:
    """A shell that does what it is asked at once, and records it."""

    def __init__(self, pod: dict[str, Any], *, adopt: ev.Adopt | None = None, auto: bool = True) -> None:
        self.now = T0
        self.pod = pod
        self.core = PodCore(pod, "10.89.0.11", self.now)
        self.log: list[ev.Action] = []
        self.auto = auto
        self.status: dict[str, Any] = {}
        self.send(adopt or ev.Adopt(None))

    def send(self, event: ev.Event) -> list[ev.Action]:
        actions = self.core.handle(event, self.now)
        self.core.validate()
        self.log += actions
        for action in actions:
            if isinstance(action, ev.Report):
                self.status = action.status
        if self.auto:
            for action in actions:
                self._answer(action)
        return actions

    def _answer(self, action: ev.Action) -> None:
        if isinstance(action, ev.MountVolumes):
            self.send(ev.VolumesReady())
        elif isinstance(action, ev.StartSandbox):
            self.send(ev.SandboxReady(f"sb{action.attempt}", "10.244.0.5"))
        elif isinstance(action, ev.StartContainer):
            self.send(ev.ContainerStarted(action.name, f"{action.name}-{action.attempt}", "sha256:1", self.now))
        elif isinstance(action, ev.StopContainer):
            self.exit(action.name, 143)
        elif isinstance(action, ev.StopSandbox):
            self.send(ev.SandboxStopped())
        elif isinstance(action, ev.ReleaseVolumes):
            self.send(ev.VolumesReleased())
        elif isinstance(action, ev.RemovePod):
            self.send(ev.PodRemoved())
        elif isinstance(action, ev.DeleteObject):
            self.send(ev.PodGone())

    def exit(self, name: str, code: int, reason: str = "") -> None:
        state = self.core.containers[name]
        reason = reason or ("Completed" if code == 0 else "Error")
        self.send(ev.ContainerExited(name, ExitInfo(state.id, code, reason, "", state.started_at, self.now)))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.send(ev.Tick())

    def of(self, kind: type) -> list[Any]:
        return [a for a in self.log if isinstance(a, kind)]

    def container(self, name: str) -> dict[str, Any]:
        both = self.status["containerStatuses"] + self.status.get("initContainerStatuses", [])
        return next(s for s in both if s["name"] == name)

    def condition(self, kind: str) -> str:
        return str(next(c["status"] for c in self.status["conditions"] if c["type"] == kind))

    def reasons(self) -> list[str]:
        return [a.reason for a in self.of(ev.Emit)]
