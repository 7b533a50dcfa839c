"""What the kubelet needs from a container engine: CRI's verbs as a Protocol, and the values that cross it.

Pure declarations. `docker_runtime.DockerRuntime` fulfils it; tests may fulfil it in memory. Every failure of the engine
is a `RuntimeFailure`; a container that is already gone is no failure for stop and remove.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cluster.node.pull_secrets import Credential

SANDBOX_CONTAINER = "POD"

RunState = Literal["created", "running", "exited"]
Propagation = Literal["rprivate", "rslave", "rshared"]

UNANSWERED = "DeadlineExceeded"

Emit = Callable[[str, str, str, str], None]
"""A Kubernetes Event about a pod: type, reason, message, and the container, "" when it is about none."""


class RuntimeFailure(Exception):
    """The engine could not do it. `reason` is a Kubernetes waiting reason where there is one, NotFound, Conflict, or
    UNANSWERED: the engine may have done it, may do it yet, or never.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PodRef:
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    pod: PodRef
    attempt: int
    hostname: str
    image: str
    sysctls: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    host_pids: bool = False
    host_ipc: bool = False
    cgroup_parent: str = ""
    handler: str = ""  # the engine's runtime, by RuntimeClass; "" is its default


@dataclass(frozen=True, slots=True)
class Device:
    """A device node of the machine, as the container is to see it."""

    host_path: str
    container_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Resources:
    """What of a running container can be changed; 0 takes a limit away."""

    cpu_shares: int = 2
    cpu_quota_us: int = 0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    source: str
    target: str
    read_only: bool = False
    propagation: Propagation = "rprivate"


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """One run of a container, with everything resolved: no references to API objects are left."""

    pod: PodRef
    name: str
    attempt: int
    sandbox_id: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    mounts: tuple[Mount, ...] = ()
    user: str = ""
    groups: tuple[str, ...] = ()
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    unconfined_seccomp: bool = False
    cpu_shares: int = 2
    cpu_quota_us: int = 0
    memory_limit_bytes: int = 0
    oom_score_adj: int = 0
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    share_pids: bool = False
    host_pids: bool = False
    pids_of: str = ""  # the container whose processes it shares
    message_path: str = ""
    message_policy: str = "File"
    log_path: str = ""
    handler: str = ""
    cgroup_parent: str = ""  # of the machine's cgroups; "" is the engine's own choice
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container (or a sandbox, whose name is POD) of this machine. Times are 0 where unknown."""

    id: str
    pod: PodRef
    name: str
    attempt: int
    state: RunState
    sandbox_id: str = ""
    image_id: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    netns: str = ""
    message_path: str = ""
    message_policy: str = "File"
    log_path: str = ""

    @property
    def is_sandbox(self) -> bool:
        return self.name == SANDBOX_CONTAINER


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """`resync` says that events may have been missed: look at everything again."""

    kind: Literal["died", "resync"]
    id: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """`user` and `stop_signal` as the image's config says; "" when it does not."""

    id: str
    user: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of the machine's engine. `names`: with digests first, then with tags; none for what lost its name.

    `pinned`: the engine wants it kept though no container has it, such as its own pause image.
    """

    names: tuple[str, ...]
    size_bytes: int
    id: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class LogOptions:
    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float | None = None
    stream: str = ""  # stdout or stderr alone


@dataclass(frozen=True, slots=True)
class Usage:
    """One sample of a container's resources; cumulative CPU."""

    at: float
    cpu_ns: int
    memory_bytes: int
    working_set_bytes: int
    rss_bytes: int
    page_faults: int
    major_page_faults: int
    processes: int = 0


@dataclass(frozen=True, slots=True)
class DiskUse:
    used_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: DiskUse) -> DiskUse:
        return DiskUse(self.used_bytes + other.used_bytes, self.inodes + other.inodes)


@dataclass(frozen=True, slots=True)
class ContainerDisk:
    """What a container keeps on disk: its writable layer and its log."""

    rootfs: DiskUse
    logs: DiskUse


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """`image_root`: a path on the file system of images and writable layers."""

    image_root: str
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"


Stream = Literal[1, 2]


class Session(Protocol):
    """A running exec or attach: bytes in, (stream, bytes) out."""

    def read(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Ends when the command's output ends."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, height: int, width: int) -> None: ...

    async def exit_code(self) -> int:
        """After `read` ended; 0 for attach."""
        ...

    async def close(self) -> None:
        """Break the connection."""
        ...


class Runtime(Protocol):
    @property
    def name(self) -> str:
        """What ids of containers begin with in statuses: docker, containerd, hollow."""
        ...

    async def version(self) -> str:
        """`docker://28.2.2`; raises RuntimeFailure when the engine does not answer."""
        ...

    async def containers(self) -> list[ContainerInfo]:
        """All of this machine's sandboxes and containers, dead ones too; cheap, without exit details."""
        ...

    async def inspect(self, container_id: str) -> ContainerInfo | None: ...

    async def image(self, name: str) -> ImageInfo | None: ...

    async def images(self) -> list[ImageEntry]: ...

    async def images_in_use(self) -> set[str]:
        """Ids of the images of all the engine's containers, dead ones and other machines' too."""
        ...

    async def remove_image(self, image_id: str) -> None:
        """By id, all its names; one that is gone is no failure, one that a container has is."""
        ...

    async def pull(self, name: str, credential: Credential | None = None, source: str = "") -> ImageInfo:
        """From `source` (a mirror's name for it) if given; the image is called `name` afterwards in any case."""
        ...

    async def run_sandbox(self, config: SandboxConfig) -> tuple[str, str]:
        """(id, path of its network namespace); with `host_network` the namespace is the machine's."""
        ...

    async def create_container(self, config: ContainerConfig) -> str: ...

    async def start_container(self, container_id: str) -> None: ...

    async def signal(self, container_id: str, signal: str) -> None:
        """A container that does not run is no failure."""
        ...

    async def remove(self, container_id: str) -> None:
        """Also when it runs; one that is gone is no failure."""
        ...

    async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        """Raises TimeoutError."""
        ...

    async def exec(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Session: ...

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool = False
    ) -> Session:
        """`stdin_once`: the end of the client's input is the container's; without, it only ends this client's."""
        ...

    async def keep_logs(self, containers: Sequence[ContainerInfo]) -> None:
        """Go on writing the log files of containers that an earlier kubelet started."""
        ...

    async def log_complete(self, container_id: str) -> bool:
        """Whether nothing more will be written to the container's log file."""
        ...

    async def log_written(self, container_id: str) -> None:
        """Return once all that an ended container wrote is in its log file."""
        ...

    async def reopen_log(self, container_id: str) -> None:
        """Its log file was renamed: go on in a new one."""
        ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """For ever; begins with a resync, and after every interruption."""
        ...

    async def usages(self, container_ids: Sequence[str]) -> dict[str, Usage]:
        """By id; those that do not run are left out."""
        ...

    async def disk_usages(self, container_ids: Sequence[str]) -> dict[str, ContainerDisk]:
        """By id; walks the writable layers, so it may take a while. Containers that are gone are left out."""
        ...

    async def engine_info(self) -> EngineInfo: ...

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        """Of a running container, without restarting it."""
        ...

    async def close(self) -> None: ...


Obj = dict[str, Any]
