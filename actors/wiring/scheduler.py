"""The Scheduler actor's part: an elector, a registry client that carries its fence, the scheduler."""

from __future__ import annotations

from actors.host import Part
from actors.wiring import basics, common
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machinery.election import Elector
from cluster.machinery.mtls import server_context
from cluster.machinery.registry_client import RegistryClient
from cluster.machinery.throttle import Throttled
from cluster.registry.rbac import RbacAuthorizer
from cluster.scheduler import configfile
from cluster.scheduler.endpoint import Endpoint
from cluster.scheduler.scheduler import Scheduler


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    basics.serve_metrics(cluster.scheduler_port)
    tracer = basics.tracer_of(cluster, machine, "kube-scheduler")
    store = basics.store_client(cluster, machine, tracer)
    authorizer = RbacAuthorizer(store)
    registry = common.registry(cluster, machine, store, authorizer, "scheduler")
    config = configfile.load(cluster.scheduler_config_file, machine.name)
    elector = Elector(store, "kube-scheduler", machine.name, config.lease_ttl_s)
    client = RegistryClient(registry, common.context_of("system:kube-scheduler", fence=lambda: elector.fence))
    bounded = Throttled(client, config.qps, config.burst) if config.qps else client
    scheduler = Scheduler(config, bounded, lambda lead: elector.run(lead, mirror=client), tracer=tracer)
    node = machine.pki / "node.crt", machine.pki / "node.key", machine.pki / "ca.crt"
    await Endpoint(scheduler, machine.ip, cluster.scheduler_port, server_context(*map(str, node))).start()
    return common.Together(scheduler, authorizer, registry, health=scheduler.health)
