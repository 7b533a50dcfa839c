"""The Controllers actor's part: every controller under one elected manager."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from prometheus_client import REGISTRY

from actors.host import Part
from actors.wiring import basics, common
from cluster.api.duration import parse_duration
from cluster.apiserver.tokens import LEGACY_ISSUER, TokenSigner
from cluster.cloud.local import LocalProvider
from cluster.cloud.providers import open_cloud
from cluster.cloud.vms import OwnAuthority
from cluster.controllers import config as settings
from cluster.controllers.autoscaler_core import ScaleDownRules
from cluster.controllers.env import Outside
from cluster.controllers.flags import with_flags
from cluster.controllers.manager import USER, ControllerManager
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machine.probe import MachineProbe
from cluster.machinery.aggregated import AggregatedApis, FrontProxy
from cluster.machinery.kubelet_metrics import KubeletAccess, KubeletPodMetrics
from cluster.machinery.prometheus import Prometheus
from cluster.machinery.provider import CertificateIssuer, NodeGroups, Provider
from cluster.registry.rbac import RbacAuthorizer


def _groups(cluster: ClusterConfig) -> NodeGroups | None:
    """Who makes machines, if that was configured."""
    if not cluster.autoscaler_ray_config:
        return None
    from actors.ray_groups import RayNodeGroups  # Ray's autoscaler takes memory that others need not

    return RayNodeGroups(cluster.autoscaler_ray_config, cluster.max_pods)


def _owners(cluster: ClusterConfig, local: LocalProvider) -> tuple[Provider | None, CertificateIssuer]:
    """Who knows the machines, and who signs: the host agent; of VMs nobody, and this machine's CA."""
    return (local, local) if cluster.provider == "local" else (None, OwnAuthority(cluster))


def config_of(cluster: ClusterConfig, machine: MachineConfig) -> settings.ControllerConfig:
    """The profile's, with the user's flags, and what the cluster's own configuration says."""
    unneeded_s = parse_duration(cluster.scale_down_unneeded_time)
    return replace(
        with_flags(settings.profile(cluster.profile), cluster.controllers),
        cluster_cidr=cluster.pod_cidr,
        node_cidr_mask_size=cluster.pod_mask,
        cluster_cidr_ipv6=cluster.pod_cidr_ipv6 if cluster.dual_stack else "",
        node_cidr_mask_size_ipv6=cluster.pod_mask_ipv6,
        service_cluster_ip_range=cluster.service_cidr,
        root_ca_file=str(machine.pki / "ca.crt"),
        scale_down=ScaleDownRules(unneeded_s, cluster.scale_down_utilization_threshold),
    )


def _kubelets(cluster: ClusterConfig, machine: MachineConfig) -> KubeletAccess:
    pki = machine.pki
    return KubeletAccess(
        port=cluster.kubelet_port,
        ca_file=str(pki / "ca.crt"),
        cert_file=str(pki / "kubelet-client.crt"),
        key_file=str(pki / "kubelet-client.key"),
    )


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    basics.serve_metrics(cluster.controllers_port)
    store = basics.store_client(cluster, machine)
    authorizer = RbacAuthorizer(store)
    registry = common.registry(cluster, machine, store, authorizer, "controllers")
    config, pki = config_of(cluster, machine), machine.pki
    front_proxy = FrontProxy(str(pki / "front-proxy.crt"), str(pki / "front-proxy.key"))
    local = LocalProvider(cluster.host_socket)
    cloud = open_cloud(cluster, local, lambda name: manager.node(name))
    provider, issuer = _owners(cluster, local)
    outside = Outside(
        provider=provider,
        metrics=KubeletPodMetrics(_kubelets(cluster, machine)),
        issuer=issuer,
        authorizer=authorizer,
        disks=cloud.disks,
        instances=cloud.instances,
        routes=cloud.routes,
        machines=MachineProbe(cluster, machine),
        series=Prometheus(config.prometheus_url, registry.cluster_ip) if config.prometheus_url else None,
        groups=_groups(cluster),
        aggregated=AggregatedApis(registry.cluster_ip, front_proxy, USER),
        balancers=cloud.balancers,
        tokens=TokenSigner(str(pki / "sa.key"), LEGACY_ISSUER, time.time),
    )
    manager = ControllerManager(store, registry, config, machine.name, outside, rng=random.Random())
    REGISTRY.register(manager.state_metrics)
    return common.Together(manager, authorizer, registry, health=manager.health)
