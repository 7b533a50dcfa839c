"""What a pod's worker needs of its machine, as Protocols: the real parts fulfil them, and those of a hollow node.

Pure declarations; the engine's own is runtime.Runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from cluster.node.container_start import Place, StartOutcome
from cluster.node.core_events import StartContainer
from cluster.node.core_probe import ProbeAnswer
from cluster.node.host_port_rules import PortMapping
from cluster.node.runtime import Emit, PodRef
from cluster.node.volumes import MountedVolumes

Obj = dict[str, Any]


class Network(Protocol):
    @property
    def maps_ports(self) -> bool:
        """Whether `add` opens the pod's host ports as well."""
        ...

    async def add(
        self, sandbox_id: str, netns: str, pod: PodRef | None = None, ports: tuple[PortMapping, ...] = ()
    ) -> tuple[str, ...]:
        """Connect a sandbox; returns its addresses, the pod's first one first. Repeating it repairs. Raises
        NetworkFailure."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """Disconnect; a sandbox that is not connected is no failure."""
        ...


class MachineNetwork(Network, Protocol):
    """The whole of a machine's pod network: the built-in one (cni.py), or plugins' (cni_plugins.py)."""

    @property
    def ready(self) -> bool: ...

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        """The recorded ones of a sandbox."""
        ...

    async def setup(self, cidr: str, *ipv6: str) -> None:
        """Prepare the machine for pods of this range, and of one of IPv6; idempotent. Raises NetworkFailure."""
        ...

    async def check(self, sandbox_id: str) -> bool:
        """Whether the sandbox is connected as it was made."""
        ...

    async def reconcile(self, live: Collection[str]) -> list[str]:
        """Disconnect every recorded sandbox that is not live; returns their ids."""
        ...

    def close(self) -> None: ...


class Ports(Protocol):
    async def set(self, sandbox_id: str, ips: tuple[str, ...], mappings: tuple[PortMapping, ...]) -> None:
        """Raises HostPortFailure; nothing is changed then."""
        ...

    async def delete(self, sandbox_id: str) -> None:
        """A sandbox without host ports is no failure. Raises HostPortFailure."""
        ...


class PodVolumes(Protocol):
    def pod_dir(self, uid: str) -> Path: ...

    async def mount(self, pod: Obj) -> MountedVolumes:
        """Repeatable. Raises VolumeFailure."""
        ...

    async def release(self, uid: str) -> None: ...

    async def remove(self, uid: str) -> None:
        """The pod's directory, with all that is left in it."""
        ...


class Statuses(Protocol):
    """Where pods' statuses go."""

    def set(self, pod: Obj, status: Obj) -> None:
        """Want this status for the pod; returns at once."""
        ...

    def seen(self, pod: Obj) -> None:
        """The API's view of a pod."""
        ...

    async def flush(self, uid: str) -> None:
        """Return when nothing is left to be written for a pod."""
        ...

    def forget(self, uid: str) -> None: ...


class PodLogs(Protocol):
    """Blocking."""

    def remove_run(self, path: str, pod: PodRef, container: str, container_id: str) -> None: ...

    def remove_pod(self, uid: str) -> None: ...


class Starter(Protocol):
    async def start(self, action: StartContainer, place: Place, emit: Emit) -> StartOutcome: ...


class Hooks(Protocol):
    async def hook(self, handler: Obj, container: Obj, container_id: str, ip: str, timeout_s: float) -> None:
        """Raises HookFailure, also when it takes too long."""
        ...


class Probing(Hooks, Protocol):
    async def probe(
        self, handler: Obj, container: Obj, container_id: str, ip: str, timeout_s: float
    ) -> ProbeAnswer: ...
