"""The kubelet's container engine through CRI v1: containerd, CRI-O, or any that speaks it.

IO: gRPC over the runtime's socket, and its streaming server. The runtime writes the log files itself, connects pods by
its CNI configuration (cni_server.py answers its plugin) and keeps images under its own mirrors. Only sandboxes and
containers labelled `sk8.machine=<machine>` are ever listed. Fulfils runtime.Runtime.

CRI stops a container as one call: the stop signal, a time, SIGKILL. So `signal` asks for that with a very long time,
and SIGKILL for it with none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from cluster.node.container_labels import LABEL_CONTAINER, LABEL_MACHINE, LABEL_UID
from cluster.node.cri import spec
from cluster.node.cri.client import CriClient
from cluster.node.cri.protos import message
from cluster.node.cri.stream import CriSession
from cluster.node.disk_use import tree
from cluster.node.pull_secrets import Credential
from cluster.node.runtime import (
    UNANSWERED,
    ContainerConfig,
    ContainerDisk,
    ContainerInfo,
    DiskUse,
    EngineInfo,
    ExecResult,
    ImageEntry,
    ImageInfo,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    SandboxConfig,
    Usage,
)

log = logging.getLogger(__name__)
_STOP_S = 10**6
_PULL_S = 3600.0
_RELIST_S = 1.0
_STOPPED_EVENT = 2
_MAX_EXEC_OUTPUT = 10 * 1024


class CriRuntime:
    """`machine` marks what belongs to us. Belongs to the loop it is first used on."""

    def __init__(self, machine: str, endpoint: str, *, netns: str = "") -> None:
        """`netns`: the machine's network namespace where that is not the runtime's own (a local machine)."""
        self._machine = machine
        self._netns = netns
        self._client = CriClient(endpoint)
        self._name = "containerd"
        self._sandboxes: set[str] = set()
        self._stops: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._name

    # ------------------------------------------------------------ looking

    async def version(self) -> str:
        answer = await self._client.call("RuntimeService/Version", version="v1")
        self._name = answer.runtime_name
        return f"{answer.runtime_name}://{answer.runtime_version}"

    async def containers(self) -> list[ContainerInfo]:
        marks = {LABEL_MACHINE: self._machine}
        boxes = await self._client.call(
            "RuntimeService/ListPodSandbox", filter=message("PodSandboxFilter", label_selector=marks)
        )
        found = await self._client.call(
            "RuntimeService/ListContainers", filter=message("ContainerFilter", label_selector=marks)
        )
        self._sandboxes = {box.id for box in boxes.items}
        return [*map(spec.from_sandbox, boxes.items), *map(spec.from_container, found.containers)]

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        if container_id not in self._sandboxes:
            try:
                answer = await self._client.call("RuntimeService/ContainerStatus", container_id=container_id)
                return spec.from_status(answer.status)
            except RuntimeFailure as err:
                if err.reason != "NotFound":
                    raise
        try:
            answer = await self._client.call(
                "RuntimeService/PodSandboxStatus", pod_sandbox_id=container_id, verbose=True
            )
        except RuntimeFailure as err:
            if err.reason == "NotFound":
                return None
            raise
        return spec.from_sandbox(answer.status, answer.info)

    async def usages(self, container_ids: Sequence[str]) -> dict[str, Usage]:
        return {s.attributes.id: spec.from_stats(s) for s in await self._stats(container_ids) if s.cpu.timestamp}

    async def disk_usages(self, container_ids: Sequence[str]) -> dict[str, ContainerDisk]:
        found = {}
        for stats in await self._stats(container_ids):
            info = await self.inspect(stats.attributes.id)
            layer = DiskUse(stats.writable_layer.used_bytes.value, stats.writable_layer.inodes_used.value)
            logs = await asyncio.to_thread(_log_use, info.log_path if info is not None else "")
            found[stats.attributes.id] = ContainerDisk(layer, logs)
        return found

    async def _stats(self, container_ids: Sequence[str]) -> list[Any]:
        marks = message("ContainerStatsFilter", label_selector={LABEL_MACHINE: self._machine})
        answer = await self._client.call("RuntimeService/ListContainerStats", filter=marks)
        return [s for s in answer.stats if s.attributes.id in set(container_ids)]

    async def engine_info(self) -> EngineInfo:
        answer = await self._client.call("ImageService/ImageFsInfo")
        return EngineInfo(answer.image_filesystems[0].fs_id.mountpoint if answer.image_filesystems else "/")

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """By the runtime's event stream where it has one; else everything is looked at every second."""
        streams = True
        while True:
            yield RuntimeEvent("resync")
            if not streams:
                await asyncio.sleep(_RELIST_S)
                continue
            try:
                async for event in self._client.stream("RuntimeService/GetContainerEvents"):
                    if event.container_event_type == _STOPPED_EVENT:
                        for status in event.containers_statuses:
                            if status.id == event.container_id and status.labels.get(LABEL_MACHINE) == self._machine:
                                marks = status.labels
                                yield RuntimeEvent("died", status.id, marks[LABEL_CONTAINER], marks[LABEL_UID])
            except RuntimeFailure as err:
                streams = err.reason != "Unimplemented"
                if streams:
                    log.warning("the runtime's event stream broke: %s", err)
            await asyncio.sleep(_RELIST_S)

    # ------------------------------------------------------------ images

    async def image(self, name: str) -> ImageInfo | None:
        answer = await self._client.call("ImageService/ImageStatus", image=message("ImageSpec", image=name))
        if not answer.image.id:
            return None
        user = str(answer.image.uid.value) if answer.image.HasField("uid") else answer.image.username
        return ImageInfo(answer.image.id, "" if user == "0" else user)

    async def images(self) -> list[ImageEntry]:
        answer = await self._client.call("ImageService/ListImages")
        return [spec.from_image(image) for image in answer.images]

    async def images_in_use(self) -> set[str]:
        answer = await self._client.call("RuntimeService/ListContainers")
        return {name for c in answer.containers for name in (c.image.image, c.image_ref)}

    async def remove_image(self, image_id: str) -> None:
        if image_id in await self.images_in_use():
            raise RuntimeFailure(f"image {image_id} is used by a container", "Conflict")
        await self._client.call("ImageService/RemoveImage", image=message("ImageSpec", image=image_id))

    async def pull(self, name: str, credential: Credential | None = None, source: str = "") -> ImageInfo:
        """A mirror is the runtime's own affair: CRI cannot give what it pulled another name."""
        if source and source != name:
            raise RuntimeFailure("a CRI runtime has its mirrors in its own configuration (containerd: certs.d)")
        auth = credential and message("AuthConfig", username=credential.username, password=credential.password)
        await self._client.call(
            "ImageService/PullImage", timeout_s=_PULL_S, image=message("ImageSpec", image=name), auth=auth
        )
        found = await self.image(name)
        if found is None:
            raise RuntimeFailure(f"image {name} is absent after it was pulled", "ErrImagePull")
        return found

    # ------------------------------------------------------------ making and ending

    async def run_sandbox(self, config: SandboxConfig) -> tuple[str, str]:
        """The pause image is the runtime's own."""
        if config.host_network and self._netns:
            raise RuntimeFailure("hostNetwork: this machine is not the one whose network the CRI runtime has")
        answer = await self._client.call(
            "RuntimeService/RunPodSandbox", config=spec.sandbox(self._machine, config), runtime_handler=config.handler
        )
        made = answer.pod_sandbox_id
        self._sandboxes.add(made)
        info = await self.inspect(made)
        if info is None or (not info.netns and not config.host_network):
            await self.remove(made)
            raise RuntimeFailure("the runtime gave the sandbox no network namespace")
        return made, info.netns

    async def create_container(self, config: ContainerConfig) -> str:
        answer = await self._client.call(
            "RuntimeService/CreateContainer",
            pod_sandbox_id=config.sandbox_id,
            config=spec.container(self._machine, config),
            sandbox_config=spec.sandbox_of(config),
        )
        return str(answer.container_id)

    async def start_container(self, container_id: str) -> None:
        await self._client.call("RuntimeService/StartContainer", container_id=container_id)

    async def signal(self, container_id: str, signal: str) -> None:
        if signal == "SIGKILL":
            await self._stop(container_id, 0)
            return
        task = asyncio.create_task(self._stop_quietly(container_id), name=f"stop {container_id[:12]}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stop(self, container_id: str, timeout_s: int) -> None:
        try:
            await self._client.call(
                "RuntimeService/StopContainer",
                timeout_s=max(timeout_s, 0) + 120.0,
                container_id=container_id,
                timeout=timeout_s,
            )
        except RuntimeFailure as err:
            if err.reason != "NotFound":
                raise

    async def _stop_quietly(self, container_id: str) -> None:
        try:
            await self._stop(container_id, _STOP_S)
        except RuntimeFailure as err:
            log.warning("stopping container %s: %s", container_id[:12], err)

    async def remove(self, container_id: str) -> None:
        info = await self.inspect(container_id)
        if info is None:
            return
        if info.is_sandbox:
            await self._client.call("RuntimeService/StopPodSandbox", pod_sandbox_id=container_id)
            await self._client.call("RuntimeService/RemovePodSandbox", pod_sandbox_id=container_id)
            self._sandboxes.discard(container_id)
            return
        await self._stop(container_id, 0)
        await self._client.call("RuntimeService/RemoveContainer", container_id=container_id)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        linux = spec.resources(resources.cpu_shares, resources.cpu_quota_us, resources.memory_limit_bytes)
        await self._client.call("RuntimeService/UpdateContainerResources", container_id=container_id, linux=linux)

    # ------------------------------------------------------------ exec, attach, logs

    async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        """Raises TimeoutError, too, when the command did not end in time."""
        try:
            answer = await self._client.call(
                "RuntimeService/ExecSync",
                timeout_s=timeout_s + 5.0,
                container_id=container_id,
                cmd=command,
                timeout=max(round(timeout_s), 1),
            )
        except RuntimeFailure as err:
            if err.reason == UNANSWERED:
                raise TimeoutError(str(err)) from err
            raise
        return ExecResult(answer.exit_code, (answer.stdout + answer.stderr)[:_MAX_EXEC_OUTPUT])

    async def exec(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> CriSession:
        wants = {"stdin": stdin, "stdout": stdout, "stderr": stderr and not tty, "tty": tty}
        answer = await self._client.call("RuntimeService/Exec", container_id=container_id, cmd=command, **wants)
        return await CriSession.connect(answer.url, **wants)

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool = False
    ) -> CriSession:
        wants = {"stdin": stdin, "stdout": stdout, "stderr": stderr and not tty, "tty": tty}
        answer = await self._client.call("RuntimeService/Attach", container_id=container_id, **wants)
        return await CriSession.connect(answer.url, **wants)

    async def keep_logs(self, containers: Sequence[ContainerInfo]) -> None:
        """The runtime writes them."""

    async def log_complete(self, container_id: str) -> bool:
        info = await self.inspect(container_id)
        return info is None or info.state != "running"

    async def log_written(self, container_id: str) -> None:
        """A container counts as ended when its output is written."""

    async def reopen_log(self, container_id: str) -> None:
        await self._client.call("RuntimeService/ReopenContainerLog", container_id=container_id)

    async def close(self) -> None:
        for task in self._stops:
            task.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)
        await self._client.close()


def _log_use(path: str) -> DiskUse:
    """Of one run's file and its rotated ones."""
    use = DiskUse()
    for file in Path(path).parent.glob(f"{Path(path).name}*") if path else ():
        use += tree(str(file))
    return use
