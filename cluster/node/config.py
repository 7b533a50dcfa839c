"""What a kubelet is told about its machine and its cluster.

Pure, but for `validate`, which looks at the files it names. Names follow the kubelet's flags where there is one.
"""

from __future__ import annotations

import ipaddress
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.api.quantity import parse_quantity
from cluster.machinery.pod_logs import CONTAINER_LOGS, POD_LOGS
from cluster.node.eviction import thresholds

_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


EVICTION_HARD = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
"""Kubernetes' defaults."""
EVICTION_HARD_SHARED = {
    "memory.available": "100Mi",
    "nodefs.available": "1Gi",
    "nodefs.inodesFree": "1%",
    "imagefs.available": "1Gi",
    "imagefs.inodesFree": "1%",
}
"""For a machine whose disk is its box's: a share of a disk that others fill says nothing about this machine."""


class ConfigError(ValueError):
    """The configuration cannot work; the message lists everything that is wrong with it."""


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """One kubelet. `cpu` and `memory` are the machine's share of its box, as quantities; "" means all of it."""

    node_name: str
    node_ip: str
    root_dir: str
    server_cert_file: str
    server_key_file: str
    client_ca_file: str
    node_ipv6: str = ""
    cluster_dns: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    cpu: str = ""
    memory: str = ""
    ephemeral_storage: str = ""
    max_pods: int = 110
    control_plane: bool = False
    zone: str = ""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    register_with_taints: tuple[Mapping[str, str], ...] = ()
    port: int = 10250
    healthz_port: int = 10248
    pause_image: str = "sk8/pause:1"
    resolv_conf: str = "/etc/resolv.conf"
    hosts_file: str = "/etc/hosts"
    image_gc_high_threshold_percent: int = 85
    image_gc_low_threshold_percent: int = 80
    image_minimum_gc_age_s: float = 120.0
    image_maximum_gc_age_s: float = 0.0  # 0: images never are too old
    image_gc_period_s: float = 300.0
    container_runtime_endpoint: str = ""  # of a CRI runtime; "" is Docker
    cni_conf_dir: str = "/etc/cni/net.d"
    cni_bin_dir: str = "/opt/cni/bin"
    static_pod_path: str = ""
    file_check_frequency_s: float = 20.0
    pod_logs_dir: str = str(POD_LOGS)
    container_logs_dir: str = str(CONTAINER_LOGS)
    container_log_max_size: str = "10Mi"
    container_log_max_files: int = 5
    container_log_monitor_s: float = 10.0
    registry_mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shares_box: bool = False  # a local machine: its box has others
    metering_period_s: float = 10.0
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    allowed_groups: tuple[str, ...] = ("system:masters", "sk8:apiservers")
    node_status_update_frequency_s: float = 10.0
    node_status_report_frequency_s: float = 300.0
    node_lease_duration_s: int = 4
    node_lease_renew_s: float = 1.0
    config_map_and_secret_ttl_s: float = 5.0
    volume_refresh_s: float = 10.0
    relist_period_s: float = 10.0

    eviction_hard: Mapping[str, str] = field(default_factory=lambda: dict(EVICTION_HARD))
    eviction_soft: Mapping[str, str] = field(default_factory=dict)
    eviction_soft_grace_period_s: Mapping[str, float] = field(default_factory=dict)
    eviction_minimum_reclaim: Mapping[str, str] = field(default_factory=dict)
    eviction_pressure_transition_period_s: float = 300.0
    eviction_max_pod_grace_period_s: int = 0
    eviction_monitor_s: float = 5.0  # while nothing is short; a pass a second while something is
    kube_reserved: Mapping[str, str] = field(default_factory=dict)
    system_reserved: Mapping[str, str] = field(default_factory=dict)
    enforce_node_allocatable: tuple[str, ...] = ("pods",)
    cgroups_per_qos: bool = True
    cgroup_root: str = ""
    part_ports: Mapping[str, int] = field(default_factory=dict)
    pod_pids_limit: int = -1
    device_plugin_dir: str = ""  # "": device-plugins in root_dir
    extended_resources: Mapping[str, str] = field(default_factory=dict)
    shutdown_grace_period_s: float = 0.0
    shutdown_grace_period_critical_pods_s: float = 0.0
    shutdown_grace_period_by_pod_priority: tuple[tuple[int, float], ...] = ()

    @property
    def node_ips(self) -> tuple[str, ...]:
        """One of each family that the cluster has."""
        return (self.node_ip, self.node_ipv6) if self.node_ipv6 else (self.node_ip,)

    def validate(self) -> None:
        """Raises ConfigError naming every field that is wrong, and what would be right."""
        checks = (self._identity(), self._paths(), self._amounts(), self._periods(), self._eviction())
        wrong = [problem for check in checks for problem in check]
        if wrong:
            raise ConfigError("; ".join(wrong))

    def _identity(self) -> Iterator[str]:
        if not self.node_name:
            yield "node_name: must not be empty"
        for name in ("node_ip", "cluster_dns", *(("node_ipv6",) if self.node_ipv6 else ())):
            try:
                ipaddress.ip_address(getattr(self, name))
            except ValueError:
                yield f"{name}: {getattr(self, name)!r} is not an IP address"
        for name in ("port", "healthz_port"):
            if not 0 <= getattr(self, name) < 65536:
                yield f"{name}: {getattr(self, name)} must be between 0 and 65535"

    def _paths(self) -> Iterator[str]:
        if self.static_pod_path and not os.path.isabs(self.static_pod_path):
            yield f"static_pod_path: {self.static_pod_path!r} must be an absolute path"
        for name in ("root_dir", "pod_logs_dir", "container_logs_dir"):
            if not os.path.isabs(getattr(self, name)):
                yield f"{name}: {getattr(self, name)!r} must be an absolute path"
        for name in ("server_cert_file", "server_key_file", "client_ca_file"):
            if not os.path.isfile(getattr(self, name)):
                yield f"{name}: {getattr(self, name)!r} is not a file"

    def _amounts(self) -> Iterator[str]:
        for name in ("cpu", "memory", "ephemeral_storage", "container_log_max_size"):
            value = getattr(self, name)
            try:
                if value and parse_quantity(value) <= 0:
                    yield f"{name}: {value!r} must be greater than 0"
            except ValueError:
                yield f"{name}: {value!r} is not a quantity such as 2, 500m or 4Gi"
        if self.max_pods < 1:
            yield f"max_pods: {self.max_pods} must be at least 1"
        if self.container_log_max_files < 2:
            yield f"container_log_max_files: {self.container_log_max_files} must be at least 2"
        high, low = self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent
        if not 0 <= low < high <= 100:
            yield (
                f"image_gc_low_threshold_percent: {low} must be less than image_gc_high_threshold_percent, {high}, "
                "and both between 0 and 100"
            )

    def _periods(self) -> Iterator[str]:
        if not 0 < self.node_lease_renew_s < self.node_lease_duration_s:
            yield "node_lease_renew_s: must be greater than 0 and less than node_lease_duration_s"
        for name in (
            "container_log_monitor_s",
            "node_status_update_frequency_s",
            "volume_refresh_s",
            "relist_period_s",
        ):
            if getattr(self, name) <= 0:
                yield f"{name}: must be greater than 0"

    def _eviction(self) -> Iterator[str]:
        try:
            thresholds(
                self.eviction_hard,
                self.eviction_soft,
                self.eviction_soft_grace_period_s,
                self.eviction_minimum_reclaim,
            )
        except ValueError as err:
            yield str(err)

    def labels(self) -> dict[str, str]:
        """The labels the kubelet sets on its Node."""
        arch = _ARCH.get(platform.machine(), platform.machine())
        labels = {
            "kubernetes.io/hostname": self.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": arch,
        }
        if self.control_plane:
            labels["node-role.kubernetes.io/control-plane"] = ""
        if self.zone:
            labels["topology.kubernetes.io/zone"] = self.zone
        labels.update(self.node_labels)
        return labels
