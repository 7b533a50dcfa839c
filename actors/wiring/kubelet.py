"""The Kubelet actor's part: this machine's node agent on the box's container engine."""

from __future__ import annotations

from actors.host import Part
from actors.wiring import basics, http
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig
from cluster.machine.dns import resolv_conf_of
from cluster.machine.machine_config import MachineConfig
from cluster.machine.roles import roles_of
from cluster.machinery.provider import ProviderError
from cluster.node.cgroup_plan import pods_root
from cluster.node.cni import PodNetwork
from cluster.node.cni_plugins import PluginNetwork
from cluster.node.config import EVICTION_HARD, EVICTION_HARD_SHARED, ConfigError, KubeletConfig
from cluster.node.cri.cni_server import CniServer, install
from cluster.node.docker_runtime import DockerRuntime
from cluster.node.image_gc import OFF
from cluster.node.kubelet import Kubelet
from cluster.node.last_resort import PastEngine, on_this_box
from cluster.node.machine_netns import engine_proc, machine_netns
from cluster.node.runtime import Runtime, RuntimeFailure
from cluster.node.seams import MachineNetwork
from cluster.node.settings import with_settings

POD_OVERHEAD_BYTES = {"routes": 0, "bgp": 0, "vxlan": 50}
"""What the way to other machines adds to a pod's packet; with routes, a pod learns of a smaller way by path MTU."""
LEASE = {"fast": (4, 1.0), "kubernetes": (40, 10.0)}
"""Seconds a heartbeat lasts, and between two, by profile."""

UNINITIALIZED = ({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},)
"""Nothing runs on a machine of a cloud before the cloud has said what it is."""


def config_of(cluster: ClusterConfig, machine: MachineConfig) -> KubeletConfig:
    duration_s, renew_s = LEASE[cluster.profile]
    local = bool(machine_netns())
    own = KubeletConfig(
        node_name=machine.name,
        node_ip=machine.ip,
        node_ipv6=cluster.ipv6_of(machine.ip),
        root_dir=str(machine.kubelet_dir),
        server_cert_file=str(machine.pki / "node.crt"),
        server_key_file=str(machine.pki / "node.key"),
        client_ca_file=str(machine.pki / "ca.crt"),
        cluster_dns=cluster.dns_ip,
        cluster_domain=cluster.domain,
        resolv_conf=resolv_conf_of(machine),
        cpu=f"{cluster.cpu_millicores}m",
        memory=str(cluster.memory_bytes),
        ephemeral_storage=str(cluster.ephemeral_storage_bytes),
        max_pods=cluster.max_pods,
        control_plane=machine.control_plane,
        zone=machine.zone,
        shares_box=local,
        eviction_hard=dict(EVICTION_HARD_SHARED if local else EVICTION_HARD),
        device_plugin_dir="" if local else "/var/lib/kubelet/device-plugins",
        cgroup_root=f"/{machine.netns}" if local else "",
        part_ports=part_ports(cluster, machine),
        # Images of a shared engine are not this machine's alone: it removes them only if its settings say so.
        image_gc_high_threshold_percent=OFF if local else 85,
        static_pod_path=str(machine.disk / "manifests"),
        port=cluster.kubelet_port,
        healthz_port=cluster.kubelet_healthz_port,
        node_lease_duration_s=duration_s,
        node_lease_renew_s=renew_s,
        register_with_taints=UNINITIALIZED if cluster.cloud_provider != "local" else (),
    )
    return with_settings(own, cluster.kubelet)


def part_ports(cluster: ClusterConfig, machine: MachineConfig) -> dict[str, int]:
    """Where the other parts of this machine show their metrics, on loopback. The API server has its own way."""
    ports = {
        "proxy": cluster.proxy_port,
        "state": cluster.state_metrics_port,
        "scheduler": cluster.scheduler_port,
        "controllers": cluster.controllers_port,
        "supervisor": cluster.supervisor_port,
    }
    return {part: ports[part] for part in roles_of(machine.name, cluster) if part in ports}


def pod_network(cluster: ClusterConfig, machine: MachineConfig) -> MachineNetwork:
    state = str(machine.kubelet_dir / "network")
    if cluster.cni == "conflist":
        return PluginNetwork(state, cluster.cni_conf_dir, cluster.cni_bin_dirs)
    return PodNetwork(state, overhead_bytes=POD_OVERHEAD_BYTES[cluster.cni])


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    config = config_of(cluster, machine)
    network = pod_network(cluster, machine)
    tracer = basics.tracer_of(cluster, machine, "kubelet")
    return Kubelet(
        config,
        http.http_client(cluster, machine, "node", tracer),
        _runtime(config, cluster, machine),
        network,
        cni=_cni(config, cluster, machine, network),
        past_engine=_past_engine(cluster, machine),
        hit=basics.hit_of(machine, "kubelet"),
        tracer=tracer,
    )


def _runtime(config: KubeletConfig, cluster: ClusterConfig, machine: MachineConfig) -> Runtime:
    """Docker, or what speaks CRI at the configured endpoint."""
    if config.container_runtime_endpoint:
        from cluster.node.cri.runtime import CriRuntime  # gRPC takes memory that a kubelet on Docker need not

        return CriRuntime(machine.container_label, config.container_runtime_endpoint, netns=machine_netns())
    netns = machine_netns()
    return DockerRuntime(
        machine.container_label,
        socket_path=cluster.engine_socket,
        netns=netns,
        proc=engine_proc(netns, cluster.box_proc),
        pods_cgroup=pods_root(config.cgroup_root),
    )


def _past_engine(cluster: ClusterConfig, machine: MachineConfig) -> PastEngine:
    """A local machine has a PID namespace of its own: the host agent sees its containers' processes."""
    if not machine_netns():
        return on_this_box

    async def by_host_agent(container_id: str, *, shim: bool) -> str:
        try:
            return await LocalProvider(cluster.host_socket).kill_container(machine.name, container_id, shim=shim)
        except ProviderError as err:
            raise RuntimeFailure(err.message) from err

    return by_host_agent


def _cni(
    config: KubeletConfig, cluster: ClusterConfig, machine: MachineConfig, network: MachineNetwork
) -> CniServer | None:
    """A CRI runtime connects its sandboxes itself, by a plugin that asks us."""
    if not config.container_runtime_endpoint:
        return None
    if cluster.cni == "conflist" and config.cni_conf_dir == cluster.cni_conf_dir:
        raise ConfigError(
            f"kubelet: cniConfDir {config.cni_conf_dir} is the cluster's cni_conf_dir: a CRI runtime needs another, in "
            "which it finds the plugin that asks the kubelet"
        )
    socket = str(machine.kubelet_dir / "cni.sock")
    install(config.cni_conf_dir, config.cni_bin_dir, socket)
    return CniServer(socket, network)
