"""The kubelet: one machine's agent. Watches the pods bound to it and runs them.

IO through its collaborators. `run` registers the machine, re-adopts what already runs (losing none, restarting none),
clears away what belongs to no pod, and then keeps pods, Node and Lease current until it is cancelled. Cancelled, it
leaves every container running.

Only containers labelled with this machine's name are ever touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.api.faults import Hit, no_fault
from cluster.api.meta import parse_time
from cluster.api.nodes import pod_cidrs
from cluster.api.tracing import Tracer
from cluster.machinery.client import Client
from cluster.machinery.clock import monotonic, steady
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informer
from cluster.node import core_events as ev
from cluster.node.access import Access
from cluster.node.admission import judge_resize, reject
from cluster.node.adoption import Adopter
from cluster.node.cgroup_plan import pods_root
from cluster.node.cleanup import Cleanup
from cluster.node.cni import NetworkFailure
from cluster.node.config import KubeletConfig
from cluster.node.container_start import ContainerStarter
from cluster.node.core import PodCore
from cluster.node.cri.cni_server import CniServer
from cluster.node.device_plugins import DevicePlugins
from cluster.node.host_ports import HostPortFailure, HostPorts, port_mappings
from cluster.node.housekeeping import Housekeeping
from cluster.node.last_resort import LastResort, PastEngine, on_this_box
from cluster.node.log_files import LogFiles
from cluster.node.node_agent import NodeAgent
from cluster.node.node_shutdown import NodeShutdown
from cluster.node.node_status import MachineFacts, allocatable, allocatable_amounts, capacity, machine_facts, node_group
from cluster.node.object_cache import ObjectCache
from cluster.node.pleg import Pleg
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.pod_set import PodSet
from cluster.node.pod_tools import Tools, api_deleter
from cluster.node.prober import Prober
from cluster.node.runtime import ContainerInfo, Runtime, RuntimeFailure
from cluster.node.runtime_class import handlers
from cluster.node.seams import MachineNetwork
from cluster.node.server import KubeletServer
from cluster.node.shutdown_plan import REJECTED
from cluster.node.static_pods import MirrorStatuses, StaticPods
from cluster.node.static_spec import from_api, is_mirror
from cluster.node.status_writer import StatusWriter
from cluster.node.traces import trace_runtime
from cluster.node.volumes import Volumes

log = logging.getLogger(__name__)
Obj = dict[str, Any]


class Kubelet:
    """`runtime` and `network` are closed with the kubelet; `client` belongs to the caller."""

    def __init__(
        self,
        config: KubeletConfig,
        client: Client,
        runtime: Runtime,
        network: MachineNetwork,
        *,
        cni: CniServer | None = None,
        past_engine: PastEngine = on_this_box,
        clock: Callable[[], float] = time.time,
        hit: Hit = no_fault,
        tracer: Tracer | None = None,
    ) -> None:
        """`cni`: for a runtime that connects its sandboxes itself. `past_engine`: kills what the runtime does not end.
        `hit`: fault points after_sandbox, before_container and after_container, about namespace/name of the pod.
        """
        config.validate()
        if tracer is not None:
            runtime = trace_runtime(runtime, tracer)
        self._config = config
        self._client = client
        self._runtime = runtime
        self._network = network
        self._cni = cni
        self._clock = clock
        facts = machine_facts(config.root_dir)
        has = capacity(config, facts)
        self._allocatable = allocatable_amounts(allocatable(config, has))
        self._memory_capacity_bytes = allocatable_amounts(has)["memory"]
        plugins = config.device_plugin_dir or os.path.join(config.root_dir, "device-plugins")
        self._devices = DevicePlugins(Path(plugins), self._devices_changed)
        self._agent = self._node_agent(facts)
        self._cache = ObjectCache(client, ttl_s=config.config_map_and_secret_ttl_s, clock=monotonic)
        self._pods = Informer(client, "pods", field_selector=f"spec.nodeName={config.node_name}")
        self._nodes = Informer(client, "nodes", field_selector=f"metadata.name={config.node_name}")
        self._services = Informer(client, "services")
        self._recorder = EventRecorder(client, "kubelet", config.node_name, clock=clock)
        self._volumes = self._pod_volumes()
        self._node_limits = node_group(config, has)
        groups = pods_root(config.cgroup_root) if config.cgroups_per_qos else ""
        self._cgroups = PodCgroups(groups, max_pids=config.pod_pids_limit)
        self._statuses = StatusWriter(client, clock)
        self._prober = Prober(runtime)
        self._last_resort = LastResort(runtime, past_engine)
        self._logs = LogFiles.of(config)
        self._host_ports = HostPorts(ipv6=bool(config.node_ipv6))
        mirrors = MirrorStatuses(self._statuses)
        self._static = self._static_pods(mirrors)
        tools = self._tools(hit, tracer)
        static = replace(tools, statuses=mirrors, delete_object=_is_gone)
        self._set = PodSet(tools, self._admit, static=static, forgotten=self._static.forgotten)
        self._shutdown = NodeShutdown(
            config, self._recorder, workers=self._set.workers, report=self._agent.try_write_status
        )
        self._cleanup = Cleanup(self._last_resort, network, self._volumes, self._logs, self._cgroups, self._recorder)
        self._adopter = Adopter(runtime, network, config.node_ips, self._cleanup.drop)
        self._pleg = Pleg(
            runtime, self._set, period_s=config.relist_period_s, listed=self._listed, failed=self._agent.changed
        )
        self._keeping = self._housekeeping(facts)
        access = Access(client, config.node_name, config.allowed_groups, clock=monotonic)
        self.server = KubeletServer(config, runtime, self, self._keeping.meter, access, clock=clock)
        self._network_error = ""

    # ------------------------------------------------------------ its parts

    def _node_agent(self, facts: MachineFacts) -> NodeAgent:
        """Asks parts that are made later only once it runs."""
        return NodeAgent(
            self._config,
            facts,
            self._client,
            self._runtime,
            network_problem=lambda: self._shutdown.problem or self._network_problem(),
            pressures=lambda: self._keeping.pressure.conditions,
            devices=self._devices.counts,
            clock=self._clock,
        )

    def _pod_volumes(self) -> Volumes:
        return Volumes(
            self._client,
            self._config.node_name,
            self._config.root_dir,
            cache=self._cache,
            report_in_use=self._agent.report_in_use,
            clock=self._clock,
            allocatable=self._allocatable,
            say=self._recorder.event,
        )

    def _static_pods(self, mirrors: MirrorStatuses) -> StaticPods:
        return StaticPods(
            self._config.static_pod_path,
            self._config.node_name,
            self._client,
            mirrors,
            node=lambda: self._agent.node,
            period_s=self._config.file_check_frequency_s,
            clock=self._clock,
        )

    def _housekeeping(self, facts: MachineFacts) -> Housekeeping:
        return Housekeeping(
            self._config,
            self._runtime,
            self._set,
            self._volumes,
            self._logs,
            self._recorder,
            memory_capacity_bytes=self._memory_capacity_bytes,
            box_memory_bytes=facts.memory_bytes,
            pressures_changed=self._agent.changed,
            clock=self._clock,
        )

    def _tools(self, hit: Hit, tracer: Tracer | None) -> Tools:
        """What the workers of pods share; made of the parts that are there by now."""
        starter = ContainerStarter(
            self._config,
            self._runtime,
            self._cache,
            self._last_resort,
            services=self._services.items,
            allocatable=self._allocatable,
            logs=self._logs,
            memory_capacity_bytes=self._memory_capacity_bytes,
            clock=self._clock,
            devices=self._devices,
        )
        return Tools(
            config=self._config,
            delete_object=api_deleter(self._client),
            runtime=self._runtime,
            network=self._network,
            host_ports=self._host_ports,
            volumes=self._volumes,
            cgroups=self._cgroups,
            handler_of=handlers(self._cache),
            logs=self._logs,
            last_resort=self._last_resort,
            starter=starter,
            prober=self._prober,
            statuses=self._statuses,
            judge_resize=self._judge_resize,
            recorder=self._recorder,
            clock=steady(self._clock, monotonic),
            wall=self._clock,
            hit=hit,
            free_devices=self._devices.free,
            tracer=tracer,
        )

    # ------------------------------------------------------------ the outside

    async def run(self) -> None:
        """Until cancelled. Raises when a part of it cannot go on."""
        await asyncio.to_thread(os.makedirs, os.path.join(self._config.root_dir, "pods"), exist_ok=True)
        try:
            await self.server.start()
            async with asyncio.TaskGroup() as group:
                await self._agent.register()  # first: informers that begin before the API answers only back off
                self._begin(group)
                group.create_task(self._agent.run_lease(), name="lease")
                group.create_task(self._agent.run_status(), name="node status")
                await self._start_network()
                if self._cni is not None:
                    await self._cni.start()
                await self._pods_and_services_synced()
                group.create_task(self._devices.run(), name="device plugins")
                await self._adopt()
                self._pods.add_handler(self._on_pod)
                self._set.drop_all_but(self._own_pods())
                group.create_task(self._pleg.run(), name="PLEG")
                group.create_task(self._static.run(self._set), name="static pods")
                group.create_task(self._keeping.run(), name="housekeeping")
                group.create_task(self._shutdown.run(), name="shutdown")
        finally:
            await self._close()

    def health(self) -> dict[str, object]:
        return {
            "ready": self._agent.ready,
            "node": self._config.node_name,
            "pods": len(self._set),
            "network": self._network_problem() or "ready",
            "leaseRenewedAt": self._agent.lease_renewed_at,
        }

    def core_of(self, namespace: str, name: str) -> PodCore | None:
        return self._set.core_of(namespace, name)

    def sandboxes(self) -> dict[str, str]:
        return {w.uid: w.core.sandbox.id for w in self._set.workers() if w.core.sandbox.phase == "ready"}

    def pods(self) -> list[Obj]:
        return [{**w.pod, "status": {**(w.pod.get("status") or {}), **w.core.status()}} for w in self._set.workers()]

    # ------------------------------------------------------------ beginning and ending

    def _begin(self, group: asyncio.TaskGroup) -> None:
        self._nodes.add_handler(self._on_node)
        for informer in (self._nodes, self._pods, self._services):
            group.create_task(informer.run(), name=f"informer {informer.resource}")

    async def _pods_and_services_synced(self) -> None:
        for informer in (self._pods, self._services):
            await informer.wait_synced()

    async def _close(self) -> None:
        await self._set.close()
        await self._cleanup.close()
        if self._cni is not None:
            await self._cni.close()
        await self.server.stop()
        await self._prober.close()
        await self._statuses.close()
        await self._recorder.close()
        await self._runtime.close()
        self._network.close()

    def _network_problem(self) -> str:
        if self._network.ready:
            return ""
        return f"container runtime network not ready: {self._network_error or 'the node has no pod range yet'}"

    async def _start_network(self) -> None:
        """Wait for spec.podCIDR and prepare the machine for it."""
        await self._nodes.wait_synced()
        while not self._network.ready:
            cidrs = pod_cidrs(self._nodes.get("", self._config.node_name) or {})
            if cidrs:
                try:
                    await self._network.setup(*cidrs)
                    self._network_error = ""
                except (NetworkFailure, ValueError) as err:
                    self._network_error = str(err)
                    log.error("preparing the pod network %s: %s", ", ".join(cidrs), err)
            if not self._network.ready:
                await asyncio.sleep(0.05 if not cidrs else 1.0)
        self._agent.changed()

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self._agent.seen(new)
        else:
            self._agent.changed()

    # ------------------------------------------------------------ pods

    async def _adopt(self) -> None:
        """Take over what the engine runs, and clear away what no pod of the API owns."""
        await asyncio.to_thread(self._volumes.block.recover)
        found = await self._until_engine_answers()
        await self._start_cgroups()
        await self._runtime.keep_logs(found)
        by_uid: dict[str, list[ContainerInfo]] = {}
        for info in found:
            by_uid.setdefault(info.pod.uid, []).append(info)
        await self._static.load()
        pods = self._own_pods()
        await self._devices.recall(pods)
        await self._network.reconcile([i.id for i in found if i.is_sandbox and i.pod.uid in pods])
        await self._cleanup.all_but(pods, found)
        adopted = [
            (pod, await self._adopter.adopt(pod, by_uid.get(uid, [])))
            for uid, pod in sorted(pods.items(), key=lambda item: _start_time(item[1]))
        ]
        await self._adopt_host_ports(adopted)
        for pod, adopt in adopted:
            if adopt.sandbox is not None and adopt.sandbox.running:
                await asyncio.to_thread(self._cgroups.apply, pod)
            self._set.add(pod, adopt)

    async def _start_cgroups(self) -> None:
        driver = (await self._runtime.engine_info()).cgroup_driver
        if driver == "systemd":
            log.warning("pods get no control groups of their own: the engine's cgroup driver is systemd, not cgroupfs")
            self._cgroups.disable()
        await asyncio.to_thread(self._cgroups.start, self._node_limits)

    def _own_pods(self) -> dict[str, Obj]:
        """All that is to run here, by uid: what the API has but mirrors, and what the directory has."""
        bound = [from_api(pod) for pod in self._pods.items() if not is_mirror(pod)]
        return {p["metadata"]["uid"]: p for p in (*bound, *self._static.pods())}

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        """The informer's handler."""
        olds, news = (None if p is None or is_mirror(p) else from_api(p) for p in (old, new))
        if olds is not None or news is not None:
            self._set.on_pod(olds, news)
        olds, news = (p if p is not None and is_mirror(p) else None for p in (old, new))
        if olds is not None or news is not None:
            self._static.on_mirror(olds, news)

    async def _adopt_host_ports(self, adopted: list[tuple[Obj, ev.Adopt]]) -> None:
        if self._network.maps_ports:
            return
        running = [
            (pod, adopt.sandbox) for pod, adopt in adopted if adopt.sandbox is not None and adopt.sandbox.running
        ]
        try:
            await self._host_ports.adopt({box.id: (box.ips, port_mappings(pod)) for pod, box in running})
        except HostPortFailure as err:
            log.error("host ports of running pods: %s", err)

    async def _until_engine_answers(self) -> list[ContainerInfo]:
        while True:
            try:
                return await self._runtime.containers()
            except RuntimeFailure as err:
                log.warning("%s; trying again", err)
                await asyncio.sleep(1.0)

    def _admit(self, pod: Obj, others: Sequence[Obj]) -> tuple[str, str] | None:
        if self._shutdown.under_way:
            return REJECTED
        node = self._nodes.get("", self._config.node_name) or {}
        labels = (node.get("metadata") or {}).get("labels") or self._config.labels()
        sysctls, pressures = self._config.allowed_unsafe_sysctls, self._keeping.pressure.conditions
        return reject(pod, others, self._allocatable, labels, sysctls, pressures)

    def _devices_changed(self) -> None:
        self._allocatable.update(self._devices.counts()[1])
        self._agent.changed()

    def _judge_resize(self, pod: Obj) -> tuple[str, str]:
        return judge_resize(pod, self._set.holders(but=pod["metadata"]["uid"]), self._allocatable)

    async def _listed(self, found: list[ContainerInfo]) -> None:
        """After each look at the engine."""
        self._cleanup.orphans(self._set.uids(), found)
        self._cache.sweep()


async def _is_gone(pod: Obj) -> bool:
    """A static pod is no object: its mirror goes with its file."""
    return True


def _start_time(pod: Obj) -> float:
    started = (pod.get("status") or {}).get("startTime")
    return parse_time(started) if started else float("inf")
