"""The Proxy actor's part: service maps, routes, firewall and node-local DNS of this machine."""

from __future__ import annotations

from actors.host import Part
from actors.wiring import basics, http
from cluster.api.bgp import PORT as BGP_PORT
from cluster.api.bgp import parse_router
from cluster.machine.config import ClusterConfig
from cluster.machine.dns import dns_config
from cluster.machine.machine_config import MachineConfig
from cluster.network.agent import NetworkAgent
from cluster.network.config import OVERLAY_PORT, FirewallConfig, NetworkConfig, ProxyConfig, RouteConfig


def network_config(cluster: ClusterConfig, machine: MachineConfig) -> NetworkConfig:
    ray = cluster.ray_ports
    bgp_port = (str(BGP_PORT),) if cluster.cni == "bgp" else ()  # else it may be another daemon's
    config = NetworkConfig(
        proxy=ProxyConfig(
            node_name=machine.name,
            node_ip=machine.ip,
            cluster_cidr=cluster.pod_cidr,
            service_cluster_ip_range=cluster.service_cidr,
            local_dns_ip=cluster.dns_ip,
            metrics_bind_address=f"{basics.LOOPBACK}:{cluster.proxy_port}",
            health_bind_address=f"0.0.0.0:{cluster.proxy_health_port}",
        ),
        routes=RouteConfig(
            node_name=machine.name,
            node_ip=machine.ip,
            backend=cluster.cni if cluster.cni in ("vxlan", "bgp") else "routes",
            bgp_asn=cluster.bgp_asn,
            bgp_routers=cluster.bgp_routers,
            bird_dir=str(machine.disk / "bird"),
            cluster_cidr=cluster.pod_cidr,
        ),
        dns=dns_config(cluster, machine),
        firewall=FirewallConfig(
            cluster_cidr=cluster.pod_cidr,
            machine_cidrs=(cluster.node_cidr,),
            protected_ports=(
                *(str(port) for port in cluster.guarded_ports),
                f"{ray.worker_min}-{ray.worker_max}",
                str(OVERLAY_PORT),
                *bgp_port,
            ),
            refused_to_pods=(str(cluster.proxy_health_port),),
            open_to_pods=(str(cluster.kubelet_port),) if cluster.kubelet_open_to_pods else (),
            bgp_routers=tuple(parse_router(each).address for each in cluster.bgp_routers) if bgp_port else (),
        ),
    )
    if not cluster.dual_stack:
        return config
    return config.dual_stack(cluster.ipv6_of(machine.ip), cluster.pod_cidr_ipv6, cluster.service_cidr_ipv6)


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    client = http.http_client(cluster, machine, "proxy")
    return NetworkAgent(network_config(cluster, machine), client, hit=basics.hit_of(machine, "proxy"))
