"""A container engine that runs nothing: containers are entries of a table that start at once and end when told to.

No IO but the loop's timers. For scale and simulation: the kubelet's core, its workers and its way to the API are the
real ones, and a node that runs on this engine says so (label `sk8.io/hollow`, runtime version `hollow://`). What needs
a process (exec, attach, logs, statistics) is refused in words. Fulfils runtime.Runtime.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from cluster.node.pull_secrets import Credential
from cluster.node.runtime import (
    SANDBOX_CONTAINER,
    ContainerConfig,
    ContainerDisk,
    ContainerInfo,
    EngineInfo,
    ExecResult,
    ImageEntry,
    ImageInfo,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    SandboxConfig,
    Session,
    Usage,
)

VERSION = "hollow://1"
_SIGKILL_CODE = 137


@dataclass(frozen=True, slots=True)
class Life:
    """How a run of a container goes: it ends by itself after `run_s` with `exit_code`; None: when it is told to."""

    run_s: float | None = None
    exit_code: int = 0


class HollowRuntime:
    name = "hollow"

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._serial = itertools.count(1)
        self._all: dict[str, ContainerInfo] = {}
        self._lives: dict[str, Life] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._events: asyncio.Queue[RuntimeEvent] = asyncio.Queue()

    # ------------------------------------------------------------ looking

    async def version(self) -> str:
        return VERSION

    async def containers(self) -> list[ContainerInfo]:
        return list(self._all.values())

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        return self._all.get(container_id)

    async def image(self, name: str) -> ImageInfo | None:
        return image_of(name)

    async def images(self) -> list[ImageEntry]:
        return []

    async def images_in_use(self) -> set[str]:
        return set()

    async def remove_image(self, image_id: str) -> None:
        return

    async def pull(self, name: str, credential: Credential | None = None, source: str = "") -> ImageInfo:
        return image_of(name)

    async def usages(self, container_ids: Sequence[str]) -> dict[str, Usage]:
        return {}

    async def disk_usages(self, container_ids: Sequence[str]) -> dict[str, ContainerDisk]:
        return {}

    async def engine_info(self) -> EngineInfo:
        return EngineInfo(image_root="/")

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        return

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        while True:
            yield await self._events.get()

    # ------------------------------------------------------------ making and ending

    async def run_sandbox(self, config: SandboxConfig) -> tuple[str, str]:
        made = self._id(config.pod.uid, SANDBOX_CONTAINER)
        now = self._clock()
        self._all[made] = ContainerInfo(
            made, config.pod, SANDBOX_CONTAINER, config.attempt, "running", created_at=now, started_at=now
        )
        return made, "hollow"

    async def create_container(self, config: ContainerConfig) -> str:
        made = self._id(config.pod.uid, config.name)
        self._all[made] = ContainerInfo(
            id=made,
            pod=config.pod,
            name=config.name,
            attempt=config.attempt,
            state="created",
            sandbox_id=config.sandbox_id,
            image_id=image_of(config.image).id,
            created_at=self._clock(),
        )
        return made

    def plan(self, container_id: str, life: Life) -> None:
        """Before it is started: how it will go."""
        self._lives[container_id] = life

    async def start_container(self, container_id: str) -> None:
        info = self._all.get(container_id)
        if info is None:
            raise RuntimeFailure(f"no such container: {container_id}", "NotFound")
        self._all[container_id] = replace(info, state="running", started_at=self._clock())
        life = self._lives.pop(container_id, Life())
        if life.run_s is not None:
            loop = asyncio.get_running_loop()
            self._ends[container_id] = loop.call_later(life.run_s, self._end, container_id, life.exit_code)

    def resume(self, infos: Sequence[ContainerInfo]) -> None:
        """What an earlier simulation had running goes on."""
        self._all.update({info.id: info for info in infos})

    async def signal(self, container_id: str, signal: str) -> None:
        """A hollow process ends well when it is asked to."""
        info = self._all.get(container_id)
        if info is not None and info.state == "running":
            self._end(container_id, _SIGKILL_CODE if signal == "SIGKILL" else 0)

    async def remove(self, container_id: str) -> None:
        timer = self._ends.pop(container_id, None)
        if timer is not None:
            timer.cancel()
        self._lives.pop(container_id, None)
        self._all.pop(container_id, None)

    def _end(self, container_id: str, code: int) -> None:
        info = self._all.get(container_id)
        self._ends.pop(container_id, None)
        if info is not None and info.state == "running":
            self._all[container_id] = replace(info, state="exited", exit_code=code, finished_at=self._clock())
            self._events.put_nowait(RuntimeEvent("died", info.id, info.name, info.pod.uid))

    def _id(self, uid: str, name: str) -> str:
        return hashlib.sha256(f"{uid}/{name}/{next(self._serial)}".encode()).hexdigest()

    # ------------------------------------------------------------ what there is none of

    async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        _refuse("run a command")

    async def exec(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Session:
        _refuse("run a command")

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool = False
    ) -> Session:
        _refuse("attach")

    async def keep_logs(self, containers: Sequence[ContainerInfo]) -> None:
        return

    async def log_complete(self, container_id: str) -> bool:
        return True

    async def log_written(self, container_id: str) -> None:
        return

    async def reopen_log(self, container_id: str) -> None:
        return

    async def close(self) -> None:
        for timer in self._ends.values():
            timer.cancel()
        self._ends.clear()


def image_of(name: str) -> ImageInfo:
    """Every image is there; its id is made from its name."""
    return ImageInfo(f"sha256:{hashlib.sha256(name.encode()).hexdigest()}")


def _refuse(what: str) -> NoReturn:
    raise RuntimeFailure(f"cannot {what} in a container of a hollow node: it is simulated, no process runs")
