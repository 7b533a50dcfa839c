"""What a hollow node has in the place of network, volumes, probes and configuration (seams.py says what they owe).

No IO. Addresses are real ones of the node's range, given to nobody else while in use, but nothing answers there.

How a pod's containers go is told by its annotations, for those that end: `sk8.io/hollow-run-seconds: "5"` and
`sk8.io/hollow-exit-code: "1"`. Init containers end at once and well.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.node.cni import NetworkFailure
from cluster.node.container_start import Place, StartOutcome
from cluster.node.core_events import ContainerStarted, StartContainer
from cluster.node.core_probe import ProbeAnswer
from cluster.node.hollow.runtime import HollowRuntime, Life, image_of
from cluster.node.host_port_rules import PortMapping
from cluster.node.pod_config import pod_ref
from cluster.node.runtime import ContainerConfig, Emit, PodRef
from cluster.node.volumes import MountedVolumes

Obj = dict[str, Any]
RUN_SECONDS = "sk8.io/hollow-run-seconds"
EXIT_CODE = "sk8.io/hollow-exit-code"
_FIRST = 2  # .1 is the gateway's


class HollowNetwork:
    """Addresses by sandbox, the lowest free one first."""

    def __init__(self, cidr: Callable[[], str]) -> None:
        self._cidr = cidr
        self._given: dict[str, str] = {}
        self._used: set[str] = set()

    maps_ports = True

    async def add(
        self, sandbox_id: str, netns: str, pod: PodRef | None = None, ports: tuple[PortMapping, ...] = ()
    ) -> tuple[str, ...]:
        if sandbox_id not in self._given:
            self.adopt(sandbox_id, self._free())
        return (self._given[sandbox_id],)

    async def delete(self, sandbox_id: str) -> None:
        self._used.discard(self._given.pop(sandbox_id, ""))

    def adopt(self, sandbox_id: str, address: str) -> None:
        self._given[sandbox_id] = address
        self._used.add(address)

    def _free(self) -> str:
        network = ipaddress.ip_network(self._cidr())
        for offset in range(_FIRST, network.num_addresses - 1):
            address = str(network[offset])
            if address not in self._used:
                return address
        raise NetworkFailure(f"no address is free in {network}")


class HollowPorts:
    async def set(self, sandbox_id: str, ips: tuple[str, ...], mappings: Any) -> None:
        return

    async def delete(self, sandbox_id: str) -> None:
        return


class HollowVolumes:
    """Every volume is there, and empty."""

    def pod_dir(self, uid: str) -> Path:
        return Path("/nonexistent") / uid

    async def mount(self, pod: Obj) -> MountedVolumes:
        return MountedVolumes({}, frozenset())

    async def release(self, uid: str) -> None:
        return

    async def remove(self, uid: str) -> None:
        return


class HollowLogs:
    def remove_pod(self, uid: str) -> None:
        return

    def remove_run(self, path: str, pod: PodRef, container: str, container_id: str) -> None:
        return


class HollowProber:
    """Everything is well, at once."""

    async def probe(
        self, handler: Obj, container: Obj, container_id: str, pod_ip: str, timeout_s: float
    ) -> ProbeAnswer:
        return ProbeAnswer(True, "")

    async def hook(self, handler: Obj, container: Obj, container_id: str, pod_ip: str, timeout_s: float) -> None:
        return


class HollowStarter:
    """`start_s`: how long a start takes, with image and all."""

    def __init__(self, runtime: HollowRuntime, clock: Callable[[], float], start_s: float = 0.0) -> None:
        self._runtime = runtime
        self._clock = clock
        self._start_s = start_s

    async def start(self, action: StartContainer, place: Place, emit: Emit) -> StartOutcome:
        if self._start_s:
            await asyncio.sleep(self._start_s)
        image = str(place.spec.get("image") or "")
        config = ContainerConfig(pod_ref(place.pod), action.name, action.attempt, place.sandbox_id, image)
        made = await self._runtime.create_container(config)
        self._runtime.plan(made, life_of(place.pod, action.name))
        await self._runtime.start_container(made)
        return ContainerStarted(action.name, made, image_of(image).id, self._clock())


def life_of(pod: Obj, container: str) -> Life:
    """How the next run of a container goes."""
    for init in pod["spec"].get("initContainers") or ():
        if init["name"] == container and init.get("restartPolicy") != "Always":
            return Life(0.0)
    notes = pod["metadata"].get("annotations") or {}
    if not any(c["name"] == container for c in pod["spec"]["containers"]):
        return Life()
    try:
        run_s = max(float(notes[RUN_SECONDS]), 0.0) if RUN_SECONDS in notes else None
        return Life(run_s, int(notes.get(EXIT_CODE, "0")))
    except ValueError:
        return Life()
