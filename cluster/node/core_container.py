"""One container of a pod: its state, its restarts and its back-off.

Pure. The states of a container:

    waiting --StartContainer--> starting --started--> running --exit--> exited --restart--> starting ...
       ^___________ blocked (image, config) _|            |--StopContainer--> stopping --exit--> exited

Back-off is Kubernetes': the first restart is immediate, then 10, 20, 40 .. 300 s after the end of the last run; it
starts over when a run lasted longer than 600 s (twice the maximum). It counts on the core's own time, not on the
engine's timestamps, which a stepped wall clock moves. An ephemeral container runs once, beside the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.node.core_events import ContainerExited, ExitInfo
from cluster.node.core_probe import Probes

Kind = Literal["init", "sidecar", "main", "ephemeral"]
Phase = Literal["waiting", "starting", "running", "stopping", "exited"]


@dataclass(slots=True)
class Backoff:
    """Exponential back-off between `initial_s` and `max_s`; `updated_at` is when it last grew."""

    initial_s: float = 10.0
    max_s: float = 300.0
    current_s: float = 0.0
    updated_at: float = 0.0

    def _expired(self, event_at: float) -> bool:
        return event_at - self.updated_at > 2 * self.max_s

    def until(self, event_at: float) -> float:
        """The time before which nothing may be tried, after something ended at `event_at`."""
        if self.current_s == 0.0 or self._expired(event_at):
            return event_at
        return event_at + self.current_s

    def grow(self, event_at: float, now: float) -> None:
        """Something is tried again at `now` after it had ended at `event_at`."""
        if self.current_s == 0.0 or self._expired(event_at):
            self.current_s = self.initial_s
        else:
            self.current_s = min(self.current_s * 2, self.max_s)
        self.updated_at = now


@dataclass(slots=True)
class Retry:
    """Even simpler back-off for work that has no runs: try, wait, try again, wait longer."""

    initial_s: float
    max_s: float
    failures: int = 0
    at: float = 0.0

    def failed(self, now: float) -> float:
        delay = min(self.initial_s * 2.0**self.failures, self.max_s)
        self.failures = min(self.failures + 1, 32)
        self.at = now + delay
        return delay

    def reset(self) -> None:
        self.failures, self.at = 0, 0.0


@dataclass(slots=True)
class ContainerState:
    """What the core knows of one container. `attempt` is the number of the current (or next first) run."""

    spec: dict[str, Any]
    kind: Kind
    phase: Phase = "waiting"
    attempt: int = 0
    ran: bool = False
    id: str = ""
    image: str = ""  # what the current run was started with; the spec's may have changed since
    image_id: str = ""
    image_shown: str = ""  # the name that goes with `image_id`: that of the last run; "" before there was one
    replacing: bool = False  # stopped to run another image: restartPolicy has no say
    started_at: float = 0.0
    ended_at: float = 0.0
    exit: ExitInfo | None = None
    last: ExitInfo | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    blocked_at: float = 0.0
    stop_grace_s: float = 0.0
    probes: Probes = field(default_factory=Probes)
    backoff: Backoff = field(default_factory=Backoff)
    blocked: Retry = field(default_factory=lambda: Retry(5.0, 5.0))
    pulling: Retry = field(default_factory=lambda: Retry(10.0, 300.0))
    early_exit: ContainerExited | None = None
    allocated: dict[str, Any] = field(default_factory=dict)  # resources that the machine has granted
    actual: dict[str, Any] = field(default_factory=dict)  # resources that the current run has
    resizing: bool = False
    resize: Retry = field(default_factory=lambda: Retry(2.0, 60.0))
    resize_error: str = ""

    def __post_init__(self) -> None:
        self.image = self.spec.get("image", "")
        self.allocated = self.actual = self.spec.get("resources") or {}

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def active(self) -> bool:
        return self.phase in ("starting", "running", "stopping")

    @property
    def succeeded(self) -> bool:
        return self.phase == "exited" and self.exit is not None and self.exit.exit_code == 0

    @property
    def started(self) -> bool:
        return self.phase in ("running", "stopping") and self.probes.started

    @property
    def ready(self) -> bool:
        if self.kind == "init":
            return self.succeeded
        return self.phase in ("running", "stopping") and self.probes.ready

    def wants_restart(self, policy: str) -> bool:
        """Whether an exited container is to run again, by its pod's restartPolicy."""
        if self.exit is None or self.replacing:
            return True
        if self.kind == "ephemeral":
            return False
        if self.kind == "sidecar":
            return True
        if self.kind == "main" and policy == "Always":
            return True
        return policy != "Never" and self.exit.exit_code != 0

    def try_at(self) -> float:
        """The earliest time of the next start."""
        if self.phase == "exited" and self.exit is not None:
            return self.backoff.until(self.ended_at)
        return max(self.blocked.at, self.pulling.at)

    @property
    def outdated(self) -> bool:
        """It runs an image that its spec no longer names."""
        return self.phase == "running" and self.image != self.spec.get("image", "")

    def respecify(self, spec: dict[str, Any]) -> None:
        """A new image, the one part of a container that may change, has not failed yet: it is tried at once."""
        if spec.get("image") != self.spec.get("image"):
            self.backoff = Backoff()
            self.blocked.reset()
            self.pulling.reset()
        self.spec = spec

    def begin_start(self, now: float) -> None:
        if self.phase == "exited" and self.exit is not None and not self.replacing:
            self.backoff.grow(self.ended_at, now)
        self.image, self.replacing = self.spec.get("image", ""), False
        if self.ran:
            self.attempt += 1
            self.ran = False
            self.last = self.exit or self.last
        self.phase = "starting"
        self.id, self.exit = "", None
        self.stop_grace_s = 0.0
        self.actual = self.allocated
        self.resizing, self.resize_error = False, ""
        self.resize.reset()
        # The reason of the last failure stays visible until this start has an outcome, as in Kubernetes.

    def begin_run(self, container_id: str, image_id: str, at: float, now: float) -> None:
        """`at` is the engine's time, for the status; probes count from `now`."""
        self.phase, self.ran = "running", True
        self.id, self.image_id, self.started_at = container_id, image_id, at
        self.image_shown = self.image
        self.waiting_reason = self.waiting_message = ""
        self.blocked.reset()
        self.pulling.reset()
        self.probes = Probes.for_container(self.spec, now)

    def end_run(self, exit_info: ExitInfo, now: float) -> None:
        self.phase, self.ran, self.exit, self.ended_at = "exited", True, exit_info, now
        self.waiting_reason = self.waiting_message = ""
        self.probes = Probes()

    def block(self, reason: str, message: str, pull: bool, now: float) -> None:
        self.phase = "waiting"
        self.waiting_reason, self.waiting_message = reason, message
        self.blocked_at = now
        if self.image == self.spec.get("image", ""):
            (self.pulling if pull else self.blocked).failed(now)


def containers_of(pod: dict[str, Any]) -> dict[str, ContainerState]:
    """Fresh states in start order: init containers (a restartPolicy of Always makes a sidecar), then the others; last
    the ephemeral ones, which wait for nobody."""
    states: dict[str, ContainerState] = {}
    for spec in pod["spec"].get("initContainers") or ():
        kind: Kind = "sidecar" if spec.get("restartPolicy") == "Always" else "init"
        states[spec["name"]] = ContainerState(spec, kind)
    for spec in pod["spec"].get("containers") or ():
        states[spec["name"]] = ContainerState(spec, "main")
    for spec in pod["spec"].get("ephemeralContainers") or ():
        states[spec["name"]] = ContainerState(spec, "ephemeral")
    return states
