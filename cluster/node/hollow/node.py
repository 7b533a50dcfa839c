"""One hollow node: the kubelet's agent, cores and workers on a runtime that runs nothing.

IO: the API, through the injected Client. Registration, Lease, status, admission, the life of each pod and its statuses
are the real kubelet's code; see parts.py and runtime.py for what is simulated.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.api.faults import no_fault
from cluster.api.meta import parse_time
from cluster.machinery.client import Client
from cluster.machinery.clock import monotonic, steady
from cluster.machinery.events import EventRecorder
from cluster.node import core_events as ev
from cluster.node.admission import judge_resize, reject
from cluster.node.config import KubeletConfig
from cluster.node.hollow.parts import (
    HollowLogs,
    HollowNetwork,
    HollowPorts,
    HollowProber,
    HollowStarter,
    HollowVolumes,
)
from cluster.node.hollow.runtime import HollowRuntime
from cluster.node.last_resort import LastResort, nothing_there
from cluster.node.node_agent import NodeAgent
from cluster.node.node_status import MachineFacts, allocatable_amounts, capacity
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.pod_config import pod_ref
from cluster.node.pod_set import PodSet
from cluster.node.pod_tools import Tools, api_deleter
from cluster.node.runtime import SANDBOX_CONTAINER, ContainerInfo
from cluster.node.runtime_class import no_handlers
from cluster.node.status_writer import StatusWriter

Obj = dict[str, Any]
LABEL = "sk8.io/hollow"
TAINT = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
_UNNUMBERED = ipaddress.ip_network("100.64.0.0/10")  # a node whose podCIDR was not given yet takes its slice of it
_SLICE = 256


@dataclass(frozen=True, slots=True)
class HollowSpec:
    """What every node of a fleet is like. Leases are those of Kubernetes: one every 10 s, for 40 s."""

    cpu: str = "8"
    memory: str = "32Gi"
    ephemeral_storage: str = "100Gi"
    max_pods: int = 110
    labels: dict[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()
    tainted: bool = True  # so that only pods that say so come here
    start_s: float = 0.0
    lease_duration_s: int = 40
    lease_renew_s: float = 10.0

    def config(self, name: str, index: int) -> KubeletConfig:
        """Without an address: nobody can speak to a hollow kubelet."""
        return KubeletConfig(
            node_name=name,
            node_ip="",
            root_dir="/nonexistent",
            server_cert_file="",
            server_key_file="",
            client_ca_file="",
            cpu=self.cpu,
            memory=self.memory,
            ephemeral_storage=self.ephemeral_storage,
            max_pods=self.max_pods,
            zone=self.zones[index % len(self.zones)] if self.zones else "",
            node_labels={LABEL: "true", **self.labels},
            register_with_taints=(TAINT,) if self.tainted else (),
            node_lease_duration_s=self.lease_duration_s,
            node_lease_renew_s=self.lease_renew_s,
        )


FACTS = MachineFacts(
    cpu_count=8,
    memory_bytes=32 << 30,
    disk_bytes=100 << 30,
    machine_id="",
    system_uuid="",
    boot_id="",
    kernel="hollow",
    os_image="hollow (simulated by sk8)",
    arch="amd64",
)


class HollowNode:
    """`statuses` is shared by the nodes of a fleet; `index` is the node's number among them."""

    def __init__(
        self,
        spec: HollowSpec,
        name: str,
        index: int,
        client: Client,
        statuses: StatusWriter,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._index = index
        self._config = spec.config(name, index)
        self._allocatable = allocatable_amounts(capacity(self._config, FACTS))
        self._runtime = runtime = HollowRuntime(clock)
        self._network = HollowNetwork(self._cidr)
        self._recorder = EventRecorder(client, "kubelet", name, clock=clock)
        self.agent = NodeAgent(
            self._config, FACTS, client, runtime, network_problem=lambda: "", clock=clock, monotonic=monotonic
        )
        tools = Tools(
            config=self._config,
            delete_object=api_deleter(client),
            runtime=runtime,
            network=self._network,
            host_ports=HollowPorts(),
            volumes=HollowVolumes(),
            logs=HollowLogs(),
            cgroups=PodCgroups(""),
            handler_of=no_handlers,
            last_resort=LastResort(runtime, nothing_there),
            starter=HollowStarter(runtime, clock, spec.start_s),
            prober=HollowProber(),
            statuses=statuses,
            judge_resize=self._judge_resize,
            recorder=self._recorder,
            clock=steady(clock, monotonic),
            wall=clock,
            hit=no_fault,
        )
        self.pods = PodSet(tools, self._admit)

    def _admit(self, pod: Obj, others: Any) -> tuple[str, str] | None:
        labels = ((self.agent.node or {}).get("metadata") or {}).get("labels") or self._config.labels()
        return reject(pod, others, self._allocatable, labels)

    def _judge_resize(self, pod: Obj) -> tuple[str, str]:
        return judge_resize(pod, self.pods.holders(but=pod["metadata"]["uid"]), self._allocatable)

    def _cidr(self) -> str:
        given = ((self.agent.node or {}).get("spec") or {}).get("podCIDR")
        first = _UNNUMBERED[self._index * _SLICE % _UNNUMBERED.num_addresses]
        return given or f"{first}/24"

    def adopt(self, pod: Obj) -> None:
        """Take over a pod that an earlier simulation ran: what its status says is running goes on."""
        found = running_of(pod)
        self._runtime.resume(found)
        if not found:
            self.pods.add(pod, ev.Adopt(None))
            return
        sandbox, address = found[0], str(pod["status"].get("podIP") or "")
        self._network.adopt(sandbox.id, address)
        seen = tuple(
            ev.SeenContainer(i.name, i.id, i.attempt, True, sandbox.id, i.image_id, i.started_at) for i in found[1:]
        )
        self.pods.add(pod, ev.Adopt(ev.SeenSandbox(sandbox.id, True, address, 0), seen))

    async def run(self, delay_s: float) -> None:
        """Renew Lease and status; returns only by cancellation. The node must be registered."""
        await asyncio.sleep(delay_s)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.agent.run_lease())
            group.create_task(self.agent.run_status())

    async def run_runtime(self) -> None:
        """Tell the pods of containers that end; returns only by cancellation."""
        async for event in self._runtime.events():
            self.pods.died(event.uid, event.id, event.name)

    async def close(self) -> None:
        await self.pods.close()
        await self._recorder.close()
        await self._runtime.close()


def running_of(pod: Obj) -> list[ContainerInfo]:
    """The containers that a pod's status says are running, the sandbox first; empty when none is."""
    status, ref = pod.get("status") or {}, pod_ref(pod)
    found = []
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        run = (entry.get("state") or {}).get("running")
        if run is None:
            continue
        found.append(
            ContainerInfo(
                id=str(entry["containerID"]).partition("://")[2],
                pod=ref,
                name=entry["name"],
                attempt=int(entry.get("restartCount") or 0),
                state="running",
                sandbox_id=f"sandbox-{ref.uid}",
                image_id=str(entry.get("imageID") or ""),
                started_at=parse_time(run["startedAt"]),
            )
        )
    if not found:
        return []
    return [ContainerInfo(f"sandbox-{ref.uid}", ref, SANDBOX_CONTAINER, 0, "running"), *found]
