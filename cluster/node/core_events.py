"""What happens to a pod on its node, and what the core asks the shell to do about it.

Pure. Events are facts, actions are requests; each action that takes time ends in exactly one event, named in its
docstring. Times are seconds since the epoch as floats. Every action carries `cause`, the number of the event that
made the core ask for it (see `PodCore.story`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ProbeKind = Literal["startup", "liveness", "readiness"]
PROBE_KINDS: tuple[ProbeKind, ...] = ("startup", "liveness", "readiness")


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """How one run of a container ended."""

    id: str
    exit_code: int
    reason: str  # Completed, Error, OOMKilled, StartError, ContainerStatusUnknown ...
    message: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SeenSandbox:
    """A sandbox that the engine had when the kubelet started. `second_ip`: of the other family."""

    id: str
    running: bool
    ip: str
    attempt: int
    second_ip: str = ""

    @property
    def ips(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.ip, self.second_ip)))


@dataclass(frozen=True, slots=True)
class SeenContainer:
    """A container that the engine had when the kubelet started; the newest attempt of its name."""

    name: str
    id: str
    attempt: int
    running: bool
    sandbox_id: str
    image_id: str
    started_at: float
    exit: ExitInfo | None = None
    previous: ExitInfo | None = None


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class PodSeen:
    """The API object as last seen; also the first event of every core."""

    pod: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodGone:
    """The API object is no more: whatever still runs must end now."""


@dataclass(frozen=True, slots=True)
class PodRejected:
    """Kubelet admission said no (OutOfcpu, NodePorts, ...)."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodEvicted:
    """The machine wants the pod's resources back, or is going down: it ends, and is never started here again.

    `grace_s` bounds the grace of its containers.
    """

    reason: str
    message: str
    grace_s: float
    event_type: Literal["Normal", "Warning"] = "Warning"


@dataclass(frozen=True, slots=True)
class Adopt:
    """What the engine already runs of this pod."""

    sandbox: SeenSandbox | None
    containers: tuple[SeenContainer, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumesReady:
    pass


@dataclass(frozen=True, slots=True)
class VolumesFailed:
    """`waiting` marks the ordinary wait for an attachment, which is no failure yet."""

    message: str
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """`second_ip`: of the other family, in a dual-stack cluster."""

    id: str
    ip: str
    second_ip: str = ""


@dataclass(frozen=True, slots=True)
class SandboxFailed:
    message: str


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """The sandbox's pause container ended by itself."""

    id: str


@dataclass(frozen=True, slots=True)
class SandboxStopped:
    pass


@dataclass(frozen=True, slots=True)
class VolumesReleased:
    pass


@dataclass(frozen=True, slots=True)
class PodRemoved:
    """Containers, directories and mounts of the pod are gone from the machine."""


_IMAGE_REASONS = ("ErrImageNeverPull", "InvalidImageName")


@dataclass(frozen=True, slots=True)
class ContainerBlocked:
    """A container could not be made: image or configuration. `pull` failures back off, the others retry evenly."""

    name: str
    reason: str
    message: str
    pull: bool = False

    @property
    def said(self) -> str:
        """What its Event says: of an image the reason alone, because another Event has told why."""
        return self.reason if self.reason in _IMAGE_REASONS else self.message


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    name: str
    id: str
    image_id: str
    at: float


@dataclass(frozen=True, slots=True)
class ContainerExited:
    name: str
    exit: ExitInfo


@dataclass(frozen=True, slots=True)
class PostStartFailed:
    name: str
    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ProbeDone:
    name: str
    id: str
    kind: ProbeKind
    ok: bool
    output: str = ""
    warning: bool = False  # `ok`, but the output is worth an Event


@dataclass(frozen=True, slots=True)
class ResizeChecked:
    """Whether the machine has room for what the pod now asks for: `reason` is "", Deferred or Infeasible."""

    wanted: tuple[str, ...]  # as CheckResize
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ContainerResized:
    """`error` is "" when the running container now has `resources`."""

    name: str
    id: str
    resources: dict[str, Any]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    PodSeen | PodGone | PodRejected | PodEvicted | Adopt | VolumesReady | VolumesFailed | SandboxReady | SandboxFailed
    | SandboxLost | SandboxStopped | VolumesReleased | PodRemoved | ContainerBlocked | ContainerStarted
    | ContainerExited | PostStartFailed | ProbeDone | ResizeChecked | ContainerResized | Tick
)  # fmt: skip


# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class MountVolumes:
    """Idempotent. Ends in VolumesReady or VolumesFailed."""

    cause: int


@dataclass(frozen=True, slots=True)
class StartSandbox:
    """Ends in SandboxReady or SandboxFailed."""

    attempt: int
    cause: int


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Ends in ContainerStarted, ContainerBlocked, or ContainerExited(StartError)."""

    name: str
    attempt: int
    cause: int


@dataclass(frozen=True, slots=True)
class StopContainer:
    """preStop, the stop signal, the grace, SIGKILL. Ends in ContainerExited. Asked again with a shorter grace, the
    earlier deadline counts."""

    name: str
    id: str
    grace_s: float
    pre_stop: bool
    cause: int


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Forget an old attempt's container. No event follows."""

    id: str
    cause: int


@dataclass(frozen=True, slots=True)
class CheckResize:
    """Is there room for the pod as its spec is now? Ends in ResizeChecked with the same `wanted`."""

    wanted: tuple[str, ...]
    cause: int


@dataclass(frozen=True, slots=True)
class ResizeContainer:
    """Change a running container's limits in place. Ends in ContainerResized."""

    name: str
    id: str
    resources: dict[str, Any]
    cause: int


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Ends in ProbeDone."""

    name: str
    id: str
    kind: ProbeKind
    cause: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """Free network and pause container. Retried by the shell until it succeeds: SandboxStopped."""

    id: str
    cause: int


@dataclass(frozen=True, slots=True)
class ReleaseVolumes:
    """Unmount. Retried by the shell until it succeeds: VolumesReleased."""

    cause: int


@dataclass(frozen=True, slots=True)
class RemovePod:
    """Remove containers and the pod's directory: PodRemoved."""

    cause: int


@dataclass(frozen=True, slots=True)
class Report:
    """Write this status to the API; a later one replaces an earlier one not yet written."""

    status: dict[str, Any]
    cause: int


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete the API object with grace 0 and its uid, after the last Report is written. Ends in PodGone."""

    cause: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of the pod is left: drop the core."""

    cause: int


@dataclass(frozen=True, slots=True)
class Emit:
    """A Kubernetes Event about the pod, or about one of its containers."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    cause: int
    container: str = field(default="")


Action = (
    MountVolumes | StartSandbox | StartContainer | StopContainer | RemoveContainer | RunProbe | CheckResize
    | ResizeContainer | StopSandbox
    | ReleaseVolumes | RemovePod | Report | DeleteObject | Forget | Emit
)  # fmt: skip
