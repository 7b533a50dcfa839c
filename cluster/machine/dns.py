"""What DNS on a machine is told: the same for the Proxy, which answers, and for its stand-in in sk8-machine."""

from __future__ import annotations

from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.network.config import DnsConfig


def dns_config(cluster: ClusterConfig, machine: MachineConfig) -> DnsConfig:
    return DnsConfig(
        node_ip=machine.ip,
        listen_ip=cluster.dns_ip,
        cluster_domain=cluster.domain,
        cluster_cidr=cluster.pod_cidr,
        service_cluster_ip_range=cluster.service_cidr,
        ranges_ipv6=(cluster.pod_cidr_ipv6, cluster.service_cidr_ipv6) if cluster.dual_stack else (),
        upstreams=cluster.dns_upstreams,
        resolv_conf=resolv_conf_of(machine),
        upstream_service="kube-system/kube-dns",
        node_name=machine.name,
        handover_socket=str(machine.disk / "dns.sock"),
        zone_file=str(machine.disk / "dns.zone"),
    )


def resolv_conf_of(machine: MachineConfig) -> str:
    """A local machine has one of its own, which names the box; a VM has the usual one."""
    own = machine.disk / "resolv.conf"
    return str(own if own.exists() else "/etc/resolv.conf")
