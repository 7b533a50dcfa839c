"""What the machines' owner (a cloud, or the local host) can do and prove: a Protocol, no IO.

`cluster.cloud.local` fulfils it over host.sock. "off" from `machines()` is the proof behind the verdict Gone
(DESIGN.md, "Liveness"): such a machine runs nothing and writes nothing any more. "unknown" proves nothing.

Errors: `ProviderError`; `retriable` says whether the same call may succeed later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
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


class Provider(Protocol):
    async def machines(self) -> Sequence[MachineStatus]: ...

    def watch_machines(self) -> AsyncIterator[Sequence[MachineStatus]]:
        """The whole list now, and again whenever something changed; ends or raises when the connection is lost."""
        ...

    async def create_disk(self, name: str, size_bytes: int) -> None:
        """Idempotent for the same size."""
        ...

    async def delete_disk(self, name: str) -> None:
        """Idempotent; refuses a disk that is attached."""
        ...

    async def attach_disk(self, name: str, machine: str) -> str:
        """The device path on that machine. Idempotent there; refuses a disk attached to another machine."""
        ...

    async def detach_disk(self, name: str, machine: str) -> None:
        """Idempotent; never takes a disk from another machine than the one named."""
        ...

    async def disks(self) -> Sequence[DiskStatus]: ...


class CertificateIssuer(Protocol):
    """Who holds the cluster's CA. Its key never comes to the controllers: they ask."""

    async def issue(self, signer: str, request_pem: str, usages: Sequence[str], lifetime_s: float) -> str:
        """The PEM certificate. Raises ProviderError; not retriable when the request may never be signed."""
        ...


class LoadBalancers(Protocol):
    """What stands before Services of type LoadBalancer; `cluster.cloud` has one for each provider."""

    async def ensure(self, service: Obj, services: Sequence[Obj]) -> Sequence[Obj]:
        """Where the Service answers, as status.loadBalancer.ingress has it; idempotent. `services`: all of the
        cluster. Raises ProviderError; trying again later may help."""
        ...

    async def delete(self, service: Obj) -> None:
        """Idempotent."""
        ...
