"""What a pod's containers stand on, carried out: its volumes, its sandbox with addresses and host ports, its cgroup.

IO through the kubelet's tools.
"""

from __future__ import annotations

import asyncio
import contextlib

from cluster.api.errors import ApiError
from cluster.machinery.client import key_of
from cluster.node import core_events as ev
from cluster.node.cni import NetworkFailure
from cluster.node.host_ports import HostPortFailure, port_mappings
from cluster.node.pod_config import pod_ref, uts_name
from cluster.node.pod_env import ConfigError
from cluster.node.pod_shell import PodShell
from cluster.node.runtime import SANDBOX_CONTAINER, RuntimeFailure, SandboxConfig
from cluster.node.volume_device import VolumeFailure
from cluster.node.volumes import MountedVolumes


class PodSandbox:
    """`released`: the pod's containers have ended, and what it stored is gone."""

    def __init__(self, shell: PodShell) -> None:
        self._shell = shell
        self._tools = shell.tools
        self.volumes: MountedVolumes | None = None
        self.released = asyncio.Event()

    def mount(self) -> None:
        self._shell.spawn(self._mount_task(), "mount", ev.VolumesFailed)

    async def _mount_task(self) -> None:
        try:
            self.volumes = await self._tools.volumes.mount(self._shell.pod)
        except VolumeFailure as err:
            self._shell.post(ev.VolumesFailed(str(err), err.waiting))
        else:
            self._shell.post(ev.VolumesReady())

    def start(self, action: ev.StartSandbox) -> None:
        self._shell.spawn(self._start_task(action.attempt), "sandbox", ev.SandboxFailed)

    async def _start_task(self, attempt: int) -> None:
        try:
            await self.apply_cgroup()
            sandbox_id, netns = await self._tools.runtime.run_sandbox(await self._config(attempt))
            self._tools.hit("after_sandbox", key_of(self._shell.pod))
            try:
                ip, *ipv6 = await self._connect(sandbox_id, netns)
            except (NetworkFailure, HostPortFailure):
                with contextlib.suppress(NetworkFailure):  # its record stays, for the kubelet's next start
                    await self._tools.network.delete(sandbox_id)
                await self._tools.runtime.remove(sandbox_id)
                raise
        except (RuntimeFailure, NetworkFailure, HostPortFailure, ConfigError, ApiError, OSError) as err:
            self._shell.post(ev.SandboxFailed(err.message if isinstance(err, ApiError) else str(err)))
        else:
            self._shell.post(ev.SandboxReady(sandbox_id, ip, *ipv6))

    async def _config(self, attempt: int) -> SandboxConfig:
        """Raises ConfigError, ApiError."""
        spec, config = self._shell.pod["spec"], self._tools.config
        if spec.get("hostUsers") is False:  # Pod Security lets such pods do more
            raise ConfigError("can't set `hostUsers: false`, runtime does not support user namespaces")
        sysctls = (spec.get("securityContext") or {}).get("sysctls") or ()
        return SandboxConfig(
            pod=pod_ref(self._shell.pod),
            attempt=attempt,
            hostname=uts_name(self._shell.pod, config.node_name, config.cluster_domain),
            image=config.pause_image,
            sysctls={s["name"].replace("/", "."): str(s["value"]) for s in sysctls},
            host_network=bool(spec.get("hostNetwork")),
            host_pids=bool(spec.get("hostPID")),
            host_ipc=bool(spec.get("hostIPC")),
            cgroup_parent=self._tools.cgroups.path(self._shell.pod),
            handler=await self._tools.handler_of(self._shell.pod),
        )

    async def apply_cgroup(self) -> None:
        """Raises OSError."""
        await asyncio.to_thread(self._tools.cgroups.apply, self._shell.core.allocated)

    async def _connect(self, sandbox_id: str, netns: str) -> tuple[str, ...]:
        """The pod's addresses: its own, or the machine's."""
        if self._shell.pod["spec"].get("hostNetwork"):
            return self._tools.config.node_ips
        ports, network = port_mappings(self._shell.pod), self._tools.network
        ips = await network.add(sandbox_id, netns, pod_ref(self._shell.pod), ports)
        if not network.maps_ports:
            await self._tools.host_ports.set(sandbox_id, ips, ports)
        return ips

    def stop(self, action: ev.StopSandbox) -> None:
        self._shell.spawn(self._stop_task(action.id), "stop sandbox")

    async def _stop_task(self, sandbox_id: str) -> None:
        await self._shell.until_done("disconnecting the sandbox", lambda: self._tools.network.delete(sandbox_id))
        await self._shell.until_done("closing the host ports", lambda: self._tools.host_ports.delete(sandbox_id))
        await self._shell.until_done(
            "removing the sandbox", lambda: self._shell.end_and_remove(sandbox_id, SANDBOX_CONTAINER)
        )
        self._shell.post(ev.SandboxStopped())

    def release(self) -> None:
        self._shell.spawn(self._release_task(), "release volumes")

    async def _release_task(self) -> None:
        await self._shell.until_done("unmounting the volumes", lambda: self._tools.volumes.release(self._shell.uid))
        cgroups = self._tools.cgroups
        await self._shell.until_done("removing the cgroup", lambda: asyncio.to_thread(cgroups.remove, self._shell.uid))
        await self._shell.until_done("giving the devices back", lambda: self._tools.free_devices(self._shell.uid))
        self.released.set()
        self._shell.post(ev.VolumesReleased())
