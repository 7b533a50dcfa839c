"""What a cluster is made of: one frozen object, its JSON and its file (checks.py has its checks).

Pure, except the load and save functions at the end (atomic replace, mode 0600). The defaults here are the values of
docs/contracts.md; no other file names an address, a port or a path of its own.

Invariant: a `ClusterConfig` that passed `validate()` changes only as changes.py allows while its cluster lives.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from cluster.api import bgp
from cluster.machine import address_pool, checks, dual_stack
from cluster.machine.checks import DEFAULT_PREFIX
from cluster.machine.config_json import FORMAT, ConfigError, read_object
from cluster.machine.files import write_atomic
from cluster.machine.machine_config import DEFAULT_ZONE, MachineConfig, StateMember

Profile = Literal["fast", "kubernetes"]


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine as the cluster's configuration lists it."""

    name: str
    ip: str
    control_plane: bool
    zone: str = DEFAULT_ZONE


@dataclass(frozen=True, slots=True)
class RayPorts:
    """Fixed, so that the firewall can name them; the worker range must hold one port for every process of a machine."""

    gcs: int = 6379
    node_manager: int = 6380
    object_manager: int = 6381
    runtime_env_agent: int = 6382
    agent_grpc: int = 6383
    agent_http: int = 6384
    metrics_export: int = 6385
    client_server: int = 6386
    worker_min: int = 20000
    worker_max: int = 20999


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Everything about one cluster that is decided before it starts."""

    machines: tuple[MachineSpec, ...]
    name: str = "sk8"
    profile: Profile = "fast"
    base_dir: str = "/var/lib/sk8"
    run_dir: str = "/run/sk8"
    prefix: str = DEFAULT_PREFIX  # of namespaces and links on the box; two clusters on one box need two
    cluster_id: str = ""
    provider: str = "local"
    """Who makes the machines: PROVIDERS says. With "vm", `machines` are the control planes, and on a worker itself:
    workers come and go."""
    api_cert_sans: tuple[str, ...] = ()
    """More names and addresses by which clients reach the API servers (kubeadm's apiServer.certSANs)."""

    node_cidr: str = "10.89.0.0/24"
    host_ip: str = "10.89.0.1"
    pod_cidr: str = "10.244.0.0/16"
    pod_mask: int = 24
    service_cidr: str = "10.96.0.0/12"
    kubernetes_ip: str = "10.96.0.1"
    dns_ip: str = "10.96.0.10"
    dual_stack: bool = False
    """Pods, machines and Services may have IPv6 addresses as well: of these ranges (dual_stack.py)."""
    node_cidr_ipv6: str = "fd00:10:89::/64"
    pod_cidr_ipv6: str = "fd00:10:244::/56"
    pod_mask_ipv6: int = 64
    service_cidr_ipv6: str = "fd00:10:96::/112"
    domain: str = "cluster.local"
    cni: str = "routes"
    """How pods reach pods of other machines: CNIS says."""
    bgp_asn: int = bgp.DEFAULT_ASN
    """With `cni: bgp`: the AS of the cluster's machines."""
    bgp_routers: tuple[str, ...] = ()
    """Routers that are told of pods besides, "ADDRESS:ASN"."""
    cni_conf_dir: str = "/etc/cni/net.d"
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    dns_upstreams: tuple[str, ...] = ()
    """Resolvers for names outside the cluster, "ip" or "ip:port"; none: those of the machine's resolv.conf."""
    load_balancer_pool: str = ""
    """Addresses of `node_cidr` for Services of type LoadBalancer: "a-b" or a network, several with commas; empty: its
    last quarter."""
    node_port_min: int = 30000
    node_port_max: int = 32767

    store_engine: str = "native"
    store_engine_unsafe: bool = False
    """Says that you know what raftos loses (docs/consensus.md)."""

    api_port: int = 6443
    state_client_port: int = 2379
    state_peer_port: int = 2380
    state_metrics_port: int = 2381
    kubelet_port: int = 10250
    kubelet_open_to_pods: bool = False
    """Pods reach it, as in Kubernetes: for a Prometheus or a metrics-server that scrapes kubelets themselves."""
    kubelet_healthz_port: int = 10248
    scheduler_port: int = 10259
    controllers_port: int = 10257
    supervisor_port: int = 10261
    proxy_port: int = 10249
    proxy_health_port: int = 10256
    machine_port: int = 6390
    join_port: int = 6391

    ray_head: str = "m1"  # the first one; see cluster/machine/head.py
    ray_head_takeover_s: float = 300.0  # so long it may be silent before another control plane follows it; 0: for ever
    ray_ports: RayPorts = field(default_factory=RayPorts)
    ray_num_cpus: int = 2
    ray_object_store_bytes: int = 80_000_000
    ensure_command: tuple[str, ...] = ()

    quota_backend_bytes: int = 2 << 30  # the store's settings have the names of etcd's flags; see store_settings.py
    auto_compaction_mode: str = "periodic"
    auto_compaction_retention: str = "5m"
    corrupt_check_time: str = "10m"
    snapshot_url: str = ""  # a directory, s3://bucket/prefix or gs://bucket/prefix; empty: <base_dir>/snapshots
    snapshot_interval: str = "6h"
    snapshot_retention: str = "30d"
    snapshot_endpoint: str = ""  # of an S3 service that is neither Amazon's nor Google's
    snapshot_credentials: str = ""  # a file like ~/.aws/credentials; empty: found as AWS' tools find them

    engine_socket: str = "/var/run/docker.sock"
    cpu_millicores: int = 2000
    memory_bytes: int = 4 << 30
    ephemeral_storage_bytes: int = 20 << 30
    max_pods: int = 110

    cloud_provider: str = "local"  # or aws: who knows the machines, and makes load balancers and routes
    aws: dict[str, Any] = field(default_factory=dict)  # settings of `AwsConfig` by name; also for EBS volumes alone

    autoscaler_ray_config: str = ""  # file of the Ray cluster, ~/ray_bootstrap_config.yaml; empty: no autoscaler
    scale_down_unneeded_time: str = "10m"
    scale_down_utilization_threshold: float = 0.5

    enable_admission_plugins: tuple[str, ...] = ()
    disable_admission_plugins: tuple[str, ...] = ()
    admission_control_config_file: str = ""  # read on every control plane when its actors start
    scheduler_config_file: str = ""  # a KubeSchedulerConfiguration, read on every control plane when its actors start
    api_server: dict[str, Any] = field(default_factory=dict)  # settings of `ApiServerConfig` by name
    controllers: dict[str, Any] = field(default_factory=dict)  # kube-controller-manager's flags, for all controllers
    kubelet: dict[str, Any] = field(default_factory=dict)  # KubeletConfiguration's, for every machine
    tracing: dict[str, Any] = field(default_factory=dict)  # TracingConfiguration's, for every part; empty: no traces

    # -- derived -------------------------------------------------------------------------------------------------
    @classmethod
    def local(cls, machines: int = 3, control_planes: int = 3, **settings: Any) -> ClusterConfig:
        """m1..mN at .11, .12, ... of the node network; the first `control_planes` of them hold the control plane."""
        if machines < 1:
            raise ConfigError(f"machines: {machines}: a cluster has at least 1 machine")
        if control_planes > machines:
            raise ConfigError(
                f"control planes: {control_planes} of {machines} machines: use at most {largest_odd(machines)}"
            )
        first = ipaddress.ip_network(settings.get("node_cidr", "10.89.0.0/24")).network_address + 11
        specs = tuple(MachineSpec(f"m{i + 1}", str(first + i), i < control_planes) for i in range(machines))
        return cls(machines=specs, **settings)

    @property
    def control_planes(self) -> tuple[MachineSpec, ...]:
        return tuple(m for m in self.machines if m.control_plane)

    @property
    def base(self) -> Path:
        return Path(self.base_dir)

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def box_proc(self) -> Path:
        """The box's /proc as its local machines see it, read-only: the container engine's processes are in it.

        Beside the run directory: what walks through that does not go into it.
        """
        return self.run.with_name(f"{self.run.name}.proc")

    @property
    def pki(self) -> Path:
        """The host's side: the CA and the service account key."""
        return self.base / "pki"

    @property
    def disks_dir(self) -> Path:
        return self.base / "disks"

    @property
    def host_socket(self) -> Path:
        return self.run / "host.sock"

    @property
    def gcs_address(self) -> str:
        return f"{self.spec(self.ray_head).ip}:{self.ray_ports.gcs}"

    @property
    def api_endpoints(self) -> tuple[tuple[str, int], ...]:
        return tuple((m.ip, self.api_port) for m in self.control_planes)

    @property
    def state_client_endpoints(self) -> tuple[tuple[str, int], ...]:
        return tuple((m.ip, self.state_client_port) for m in self.control_planes)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """One of each family the cluster has, IPv4's first."""
        return (self.pod_cidr, self.pod_cidr_ipv6) if self.dual_stack else (self.pod_cidr,)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        return (self.service_cidr, self.service_cidr_ipv6) if self.dual_stack else (self.service_cidr,)

    def ipv6_of(self, ip: str) -> str:
        """The IPv6 address of the machine with this address; "" in a single-stack cluster."""
        return dual_stack.address_of(self, ip) if self.dual_stack else ""

    @property
    def load_balancer_addresses(self) -> tuple[str, ...]:
        """In the order they are given out."""
        if self.load_balancer_pool:
            return address_pool.addresses(self.load_balancer_pool)
        if self.provider != "local":
            return ()  # nobody said which addresses of a network that is not ours are free
        own = {self.host_ip, *(m.ip for m in self.machines)}
        return tuple(a for a in address_pool.last_quarter(self.node_cidr) if a not in own)

    @property
    def guarded_ports(self) -> tuple[int, ...]:
        """Ports that only machines may speak to (Ray's workers have a range besides); pods are refused there."""
        ray = self.ray_ports
        return (
            *(self.state_client_port, self.state_peer_port, self.state_metrics_port),
            *(ray.gcs, ray.node_manager, ray.object_manager, ray.runtime_env_agent, ray.agent_grpc, ray.agent_http),
            *(ray.metrics_export, ray.client_server, self.machine_port, self.join_port),
            *(self.kubelet_port, self.kubelet_healthz_port),
            *(self.scheduler_port, self.controllers_port, self.supervisor_port),
            self.proxy_port,
        )

    def spec(self, name: str) -> MachineSpec:
        """Raises ConfigError naming the machines there are."""
        for spec in self.machines:
            if spec.name == name:
                return spec
        raise ConfigError(f"no machine {name!r}: this cluster has {', '.join(m.name for m in self.machines)}")

    def machine(self, name: str) -> MachineConfig:
        """That machine as a fresh one: it belongs to the cluster but is no State member yet."""
        spec = self.spec(name)
        return MachineConfig(
            name=spec.name,
            ip=spec.ip,
            control_plane=spec.control_plane,
            index=self.machines.index(spec),
            base_dir=self.base_dir,
            prefix=self.prefix,
            zone=spec.zone,
            cluster_id=self.cluster_id,
            state_members=self.first_members(),
        )

    def first_members(self) -> tuple[StateMember, ...]:
        return tuple(StateMember(i + 1, m.name, m.ip) for i, m in enumerate(self.control_planes))

    def first_machine(self, name: str) -> MachineConfig:
        """That machine at the birth of the cluster: a control plane is State member 1..n and may bootstrap."""
        machine = self.machine(name)
        ids = [m.id for m in machine.state_members if m.name == name]
        return replace(machine, state_member_id=ids[0], state_bootstrap=True) if ids else machine

    # -- checks --------------------------------------------------------------------------------------------------
    def problems(self) -> list[str]:
        """Every reason why this cannot work; empty when it can."""
        return checks.problems(self)

    def validate(self) -> ClusterConfig:
        """Itself when it can work; raises ConfigError with all that is wrong."""
        found = self.problems()
        if found:
            raise ConfigError("\n".join(found))
        return self

    # -- JSON ----------------------------------------------------------------------------------------------------
    def to_json(self, before: bytes = b"") -> bytes:
        """Every setting, so that a release with other defaults changes nothing. After `before`, the JSON of the same
        cluster, one that is not in it stays out as long as it has its default: a release that does not know it yet
        must be able to read this (`sk8 upgrade --rollback`)."""
        shown = asdict(self)
        if before:
            default = asdict(ClusterConfig(self.machines))
            had = read_object(before, "cluster.json", ClusterConfig)
            shown = {name: value for name, value in shown.items() if name in had or value != default[name]}
        return orjson.dumps({"format": FORMAT, **shown}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> ClusterConfig:
        raw = read_object(data, "cluster.json", cls)
        raw["machines"] = tuple(MachineSpec(**spec) for spec in raw.get("machines", ()))
        raw["ray_ports"] = RayPorts(**raw.get("ray_ports", {}))
        for item in fields(cls):
            if str(item.type).startswith("tuple[str") and item.name in raw:
                raw[item.name] = tuple(raw[item.name])
        return cls(**raw)


def largest_odd(count: int) -> int:
    return min(5, count if count % 2 else count - 1)


def parse_settings(raw: Mapping[str, Any], known: Sequence[str] = ()) -> dict[str, Any]:
    """What a user's settings file may set, as keyword arguments of `ClusterConfig.local`; raises ConfigError.

    Names may be spelled as flags are: `auto-compaction-retention`.
    """
    raw = {key.replace("-", "_"): value for key, value in raw.items()}
    allowed = {f.name for f in fields(ClusterConfig)} - {"machines", "ray_ports", "cluster_id", "provider"} | set(known)
    unknown = sorted(set(raw) - allowed)
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(allowed))}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


# -- files -----------------------------------------------------------------------------------------------------------
def load_cluster(base_dir: str | Path) -> ClusterConfig:
    """Raises FileNotFoundError when there is no cluster at `base_dir`, ConfigError when its file is damaged."""
    return ClusterConfig.from_json((Path(base_dir) / "cluster.json").read_bytes())


def save_cluster(config: ClusterConfig) -> None:
    """Raises ConfigError when the file that is there is damaged."""
    file = config.base / "cluster.json"
    write_atomic(file, config.to_json(file.read_bytes() if file.exists() else b""))
