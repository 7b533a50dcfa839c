"""Starting one container: image, configuration, create, start, and its postStart hook.

IO: the engine, the Client's cache, the pod's directory. Ends in exactly one of the core's events (`StartOutcome`);
what goes wrong becomes the waiting reason that Kubernetes uses for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cluster.api.errors import ApiError
from cluster.node import mounts, subpaths
from cluster.node.config import KubeletConfig
from cluster.node.core_events import ContainerBlocked, ContainerExited, ContainerStarted, ExitInfo, StartContainer
from cluster.node.device_core import Grant
from cluster.node.last_resort import LastResort
from cluster.node.log_files import LogFiles
from cluster.node.object_cache import ObjectCache
from cluster.node.pod_config import (
    ContainerInputs,
    DnsSettings,
    container_config,
    hosts_file,
    pod_ref,
    resolv_conf,
    with_devices,
)
from cluster.node.pod_env import ConfigError, EnvContext, references
from cluster.node.pull_secrets import credentials, mirrored
from cluster.node.runtime import UNANSWERED, ContainerConfig, Emit, ImageInfo, Mount, Runtime, RuntimeFailure
from cluster.node.subpaths import Bind, bind_subpath
from cluster.node.volumes import MountedVolumes

log = logging.getLogger(__name__)
Obj = dict[str, Any]
StartOutcome = ContainerBlocked | ContainerStarted | ContainerExited
_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container of a pod is to run."""

    pod: Obj
    spec: Obj
    sandbox_id: str
    ip: str
    directory: Path
    volumes: MountedVolumes
    cgroup_parent: str = ""
    handler: str = ""
    second_ip: str = ""
    running: Mapping[str, str] = field(default_factory=dict)  # container name -> id


class _Blocked(Exception):
    def __init__(self, reason: str, message: str, *, pull: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.pull = pull


class Devices(Protocol):
    async def grants(self, pod: Obj, container: Obj) -> list[Grant]:
        """What a container gets with the devices it asks for. Raises ConfigError."""
        ...


class ContainerStarter:
    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        cache: ObjectCache,
        last_resort: LastResort,
        *,
        services: Callable[[], list[Obj]],
        allocatable: Mapping[str, int],
        memory_capacity_bytes: int,
        logs: LogFiles,
        clock: Callable[[], float],
        devices: Devices | None = None,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._cache = cache
        self._last_resort = last_resort
        self._services = services
        self._allocatable = allocatable
        self._memory_bytes = memory_capacity_bytes
        self._logs = logs
        self._clock = clock
        self._devices = devices

    async def start(self, action: StartContainer, place: Place, emit: Emit) -> StartOutcome:
        began = self._clock()
        try:
            image = await self._image(place, emit)
            config = await self._configure(action, place, image)
        except _Blocked as err:
            return ContainerBlocked(action.name, err.reason, str(err), err.pull)
        except ConfigError as err:
            return ContainerBlocked(action.name, "CreateContainerConfigError", str(err))
        except (ApiError, OSError) as err:
            text = err.message if isinstance(err, ApiError) else str(err)
            return ContainerBlocked(action.name, "CreateContainerConfigError", text)
        except RuntimeFailure as err:
            return ContainerBlocked(action.name, "CreateContainerError", str(err))
        return await self._run(action, config, image, began, emit)

    async def _run(
        self, action: StartContainer, config: ContainerConfig, image: ImageInfo, began: float, emit: Emit
    ) -> StartOutcome:
        try:
            container_id = await self._runtime.create_container(config)
        except RuntimeFailure as err:
            return ContainerBlocked(action.name, "CreateContainerError", str(err))
        try:
            await asyncio.to_thread(self._logs.link, config.log_path, config.pod, config.name, container_id)
            await self._runtime.start_container(container_id)
        except (RuntimeFailure, OSError) as err:
            if isinstance(err, RuntimeFailure) and err.reason == UNANSWERED:
                await self._take_back(container_id, action.name, emit)
            info = ExitInfo(container_id, 128, "StartError", str(err), began, self._clock())
            return ContainerExited(action.name, info)
        return ContainerStarted(action.name, container_id, image.id, self._clock())

    async def _take_back(self, container_id: str, name: str, emit: Emit) -> None:
        """A start without an answer may come about later: it must not run beside the next one."""
        while True:
            try:
                await self._last_resort.remove(container_id, name, emit)
                return
            except RuntimeFailure as err:
                log.warning("removing container %s, whose start was not answered: %s", container_id[:12], err)
                await asyncio.sleep(_AGAIN_S)

    # ------------------------------------------------------------ image

    async def _image(self, place: Place, emit: Emit) -> ImageInfo:
        name, container = str(place.spec.get("image") or ""), str(place.spec["name"])
        policy = place.spec.get("imagePullPolicy") or "IfNotPresent"
        try:
            image = await self._runtime.image(name)
        except RuntimeFailure as err:
            if "invalid reference format" in str(err):
                why = f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {err}'
                emit("Warning", "InspectFailed", why, container)
                raise _Blocked("InvalidImageName", why) from err
            raise
        if image is not None and policy != "Always":
            emit("Normal", "Pulled", f'Container image "{name}" already present on machine', container)
            return image
        if policy == "Never":
            why = f'Container image "{name}" is not present with pull policy of Never'
            emit("Warning", "ErrImageNeverPull", why, container)
            raise _Blocked("ErrImageNeverPull", why)
        emit("Normal", "Pulling", f'Pulling image "{name}"', container)
        began = self._clock()
        try:
            image = await self._pull(name, place.pod)
        except RuntimeFailure as err:
            emit("Warning", "Failed", f'Failed to pull image "{name}": {err}', container)
            emit("Warning", "Failed", "Error: ErrImagePull", container)
            raise _Blocked("ErrImagePull", str(err), pull=True) from err
        emit("Normal", "Pulled", f'Successfully pulled image "{name}" in {self._clock() - began:.3f}s', container)
        return image

    async def _pull(self, name: str, pod: Obj) -> ImageInfo:
        """From the mirrors, then from the registry itself, with each fitting credential and then without. Raises
        RuntimeFailure with the registry's own answer to its first credential."""
        wanted = [ref.get("name", "") for ref in pod["spec"].get("imagePullSecrets") or ()]
        secrets = await self._cache.get_all("secrets", pod["metadata"]["namespace"], wanted)
        known = [secret for secret in (secrets.get(n) for n in wanted) if secret is not None]
        for source in mirrored(name, self._config.registry_mirrors):
            try:
                return await self._runtime.pull(name, next(iter(credentials(source, known)), None), source)
            except RuntimeFailure as err:
                log.info("mirror %s: %s", source, err)
        failure: RuntimeFailure | None = None
        for credential in (*credentials(name, known), None):
            try:
                return await self._runtime.pull(name, credential)
            except RuntimeFailure as err:
                failure = failure or err
        raise failure or RuntimeFailure(f"image {name} was not pulled")

    # ------------------------------------------------------------ configuration

    async def _configure(self, action: StartContainer, place: Place, image: ImageInfo) -> ContainerConfig:
        namespace = place.pod["metadata"]["namespace"]
        wanted_maps, wanted_secrets = references(place.spec)
        config_maps, secrets = await asyncio.gather(
            self._cache.get_all("configmaps", namespace, wanted_maps),
            self._cache.get_all("secrets", namespace, wanted_secrets),
        )
        context = EnvContext(
            pod=place.pod,
            pod_ip=place.ip,
            node_ip=self._config.node_ip,
            second_pod_ip=place.second_ip,
            second_node_ip=self._config.node_ipv6,
            config_maps=config_maps,
            secrets=secrets,
            services=self._services(),
            allocatable=self._allocatable,
        )
        message_file = place.directory / "containers" / place.spec["name"] / str(action.attempt)
        etc = await asyncio.to_thread(self._write_files, place, message_file)
        inputs = ContainerInputs(
            context=context,
            sandbox_id=place.sandbox_id,
            attempt=action.attempt,
            image=image,
            memory_capacity_bytes=self._memory_bytes,
            volumes=place.volumes.paths,
            read_only_volumes=place.volumes.read_only,
            raw_devices=place.volumes.devices,
            etc_mounts=etc,
            message_file=str(message_file),
            log_path=str(self._logs.path(pod_ref(place.pod), place.spec["name"], action.attempt)),
            pids_of=_target(place),
            cgroup_parent=place.cgroup_parent,
            handler=place.handler,
        )
        config = container_config(place.pod, place.spec, inputs)
        if self._devices is not None:
            config = with_devices(config, await self._devices.grants(place.pod, place.spec))
        at = place.directory / subpaths.DIRECTORY / config.name
        return await asyncio.to_thread(with_subpaths, config, place.volumes, at)

    def _write_files(self, place: Place, message_file: Path) -> tuple[Mount, ...]:
        """The pod's resolver and hosts file, and the file for the termination message."""
        dns = DnsSettings(self._config.cluster_dns, self._config.cluster_domain, _text_of(self._config.resolv_conf))
        etc = place.directory / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        host_file = _text_of(self._config.hosts_file) if place.pod["spec"].get("hostNetwork") else ""
        ips = tuple(filter(None, (place.ip, place.second_ip)))
        _write_if_changed(etc / "hosts", hosts_file(place.pod, ips, self._config.cluster_domain, host_file))
        _write_if_changed(etc / "resolv.conf", resolv_conf(place.pod, dns))
        self._logs.prepare(pod_ref(place.pod), place.spec["name"])
        message_file.parent.mkdir(parents=True, exist_ok=True)
        message_file.write_bytes(b"")
        message_file.chmod(0o666)
        return (
            Mount(str(etc / "hosts"), "/etc/hosts"),
            Mount(str(etc / "resolv.conf"), "/etc/resolv.conf"),
        )


def _text_of(path: str) -> str:
    return Path(path).read_text() if os.path.exists(path) else ""


def _target(place: Place) -> str:
    """The container whose processes an ephemeral one is to see. Raises ConfigError while that does not run."""
    name = str(place.spec.get("targetContainerName") or "")
    if name and name not in place.running:
        raise ConfigError(f"unable to find target container {name}")
    return place.running.get(name, "")


def _write_if_changed(path: Path, text: str) -> None:
    """In place: containers of the pod have the file itself bound, a replaced one would be invisible to them."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(0o644)


def with_subpaths(
    config: ContainerConfig, volumes: MountedVolumes, at: Path, bind: Bind = mounts.bind
) -> ContainerConfig:
    """Replace subPaths by what they are bound at, below `at`. Blocking. Raises ConfigError.

    Volumes may lie inside one another (a hostPath of / holds them all): a source is of the innermost.
    """
    changed = []
    for number, mount in enumerate(config.mounts):
        source = mount.source
        around = [b for b in volumes.paths.values() if source == b or source.startswith(f"{b.rstrip('/')}/")]
        base = max(around, key=len, default=source)
        if base != source:
            source = bind_subpath(base, source, at / str(number), bind)
        changed.append(replace(mount, source=source))
    return replace(config, mounts=tuple(changed))
