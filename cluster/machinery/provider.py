"""What the machines' owner (a cloud, or the local host) can do and prove: a Protocol, no IO.

`cluster.cloud.local` fulfils it over host.sock. "off" from `machines()` is the proof behind the verdict GONE
(docs/architecture.md, "When a machine loses power"): such a machine runs nothing and writes nothing any more.
"unknown" proves nothing.

Errors: `ProviderError`; `retriable` says whether the same call may succeed later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cluster.machinery.client import Obj

MachineState = Literal["running", "off", "unknown"]


class ProviderError(Exception):
    def __init__(self, message: str, *, retriable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.retriable = retriable


@dataclass(frozen=True, slots=True)
class MachineStatus:
    name: str
    state: MachineState
    addresses: tuple[str, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """`attached_to`: the one machine that has it, "" for none."""

    name: str
    size_bytes: int
    attached_to: str = ""
    device_path: str = ""


@dataclass(frozen=True, slots=True)
class DiskWish:
    """A disk to be made: `name` is the PersistentVolume's, and makes it once; `parameters` are the StorageClass's;
    `node` is where its first pod will run, "" while nobody knows; `labels` are that Node's."""

    name: str
    size_bytes: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MadeDisk:
    """`source`: what the PersistentVolume's spec says of it besides `csi`, for volumes that are no disks of a driver;
    `topology`: labels that a Node must have to reach it."""

    handle: str
    size_bytes: int
    source: Mapping[str, Obj] = field(default_factory=dict)
    topology: Mapping[str, str] = field(default_factory=dict)


class Disks(Protocol):
    """Whose disks become PersistentVolumes: one for each driver. A `handle` is what the driver calls a disk.

    All idempotent. Raises ProviderError."""

    async def create_disk(self, wish: DiskWish) -> MadeDisk: ...

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        """To at least that size; what it has then, in bytes. A disk never shrinks."""
        ...

    async def delete_disk(self, handle: str) -> None:
        """Refuses a disk that is attached."""
        ...

    async def attach_disk(self, handle: str, machine: str) -> str:
        """The device path on that machine; refuses a disk attached to another machine."""
        ...

    async def detach_disk(self, handle: str, machine: str) -> None:
        """Never takes a disk from another machine than the one named."""
        ...


class Provider(Protocol):
    async def machines(self) -> Sequence[MachineStatus]: ...

    def watch_machines(self) -> AsyncIterator[Sequence[MachineStatus]]:
        """The whole list now, and again whenever something changed; ends or raises when the connection is lost."""
        ...


class CertificateIssuer(Protocol):
    """Who holds the cluster's CA. Its key never comes to the controllers: they ask."""

    async def issue(self, signer: str, request_pem: str, usages: Sequence[str], lifetime_s: float) -> str:
        """The PEM certificate. Raises ProviderError; not retriable when the request may never be signed."""
        ...


InstanceState = Literal["running", "off", "gone"]


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine as its provider knows it. `addresses`: (type, address) as in node.status.addresses."""

    name: str
    provider_id: str
    state: InstanceState
    addresses: tuple[tuple[str, str], ...] = ()
    instance_type: str = ""
    zone: str = ""
    region: str = ""


class Instances(Protocol):
    """Which machine of the provider a Node is. Raises ProviderError."""

    @property
    def prefix(self) -> str:
        """How the providerIDs of this provider begin."""
        ...

    async def instance(self, node: Obj) -> Instance | None:
        """None: there is none, or none any more."""
        ...


@dataclass(frozen=True, slots=True)
class NodeType:
    """Machines of one kind that can be had: what a Node of it will be like. `allocatable`: cpu in millicores,
    everything else in units, `pods` among it."""

    name: str
    allocatable: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    min_count: int = 0
    max_count: int = 0


class NodeGroups(Protocol):
    """Who makes machines and takes them back. Raises ProviderError."""

    async def types(self) -> Sequence[NodeType]: ...

    async def nodes(self) -> Mapping[str, str]:
        """The type of each Node that is one of these machines."""
        ...

    async def scale(self, counts: Mapping[str, int]) -> None:
        """So many machines of each type are wanted; idempotent, and it takes none away that is in use."""
        ...

    async def release(self, node: str) -> None:
        """Nothing that matters runs on it any more: it may go. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Pods of `cidr` are reached through the machine of this Node; `blackhole`: through one that is gone."""

    node: str
    cidr: str
    blackhole: bool = False


class Routes(Protocol):
    """How the provider's network finds pods. All idempotent. Raises ProviderError."""

    async def list(self) -> Sequence[Route]:
        """Those that are this cluster's; `node` is "" where no machine is behind it any more."""
        ...

    async def create(self, route: Route, node: Obj) -> None: ...

    async def delete(self, route: Route) -> None: ...


class LoadBalancers(Protocol):
    """What stands before Services of type LoadBalancer; `cluster.cloud` has one for each provider."""

    async def ensure(self, service: Obj, services: Sequence[Obj], nodes: Sequence[Obj] = ()) -> Sequence[Obj]:
        """Where the Service answers, as status.loadBalancer.ingress has it; idempotent. `services`: all of the
        cluster; `nodes`: those that may pass its packets on. Raises ProviderError; trying again later may help."""
        ...

    async def delete(self, service: Obj) -> None:
        """Idempotent."""
        ...
