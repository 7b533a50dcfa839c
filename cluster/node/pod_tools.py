"""What all workers of a kubelet share: the parts that carry out what the cores of pods ask for.

Declarations, and the one call to the API that a worker makes itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.faults import Hit
from cluster.api.tracing import Tracer
from cluster.machinery.client import Client, is_not_found
from cluster.machinery.events import EventRecorder
from cluster.node.config import KubeletConfig
from cluster.node.last_resort import LastResort
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.runtime import Runtime
from cluster.node.runtime_class import HandlerOf
from cluster.node.seams import Network, PodLogs, PodVolumes, Ports, Probing, Starter, Statuses

Obj = dict[str, Any]


async def no_devices(uid: str) -> None:
    """Of a machine without devices: there is nothing to give back."""


@dataclass(frozen=True, slots=True)
class Tools:
    config: KubeletConfig
    delete_object: Callable[[Obj], Awaitable[bool]]
    """Delete a pod's object with grace 0; True when it is gone and nobody else will say so. Raises ApiError."""
    runtime: Runtime
    network: Network
    host_ports: Ports
    volumes: PodVolumes
    logs: PodLogs
    cgroups: PodCgroups
    handler_of: HandlerOf
    last_resort: LastResort
    starter: Starter
    prober: Probing
    statuses: Statuses
    judge_resize: Callable[[Obj], tuple[str, str]]  # admission.judge_resize beside the machine's other pods
    recorder: EventRecorder
    clock: Callable[[], float]  # the cores' time: runs on evenly when the wall clock is set
    wall: Callable[[], float]
    hit: Hit
    """Fault points, about namespace/name of the pod."""
    free_devices: Callable[[str], Awaitable[None]] = no_devices
    """Repeatable. Raises OSError."""
    tracer: Tracer | None = None


def api_deleter(client: Client) -> Callable[[Obj], Awaitable[bool]]:
    """Of pods of the API: that the object is gone, its watch says."""

    async def delete(pod: Obj) -> bool:
        meta = pod["metadata"]
        try:
            await client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)
        except ApiError as err:
            if not is_not_found(err) and err.code != 409:
                raise
            return True
        return False

    return delete
