"""Settings of the controllers: kube-controller-manager's flag names with a unit; one frozen object.

Pure. `profile("fast")` (the default) finds a silent machine within seconds; `profile("kubernetes")` has the times of a
stock cluster. Neither changes what is proven: only the provider's "off" frees volumes and identities. `flags.py` takes
a user's own values.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from cluster.controllers.autoscaler_core import ScaleDownRules

Profile = Literal["fast", "kubernetes"]


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    cluster_cidr: str = "10.244.0.0/16"
    cluster_cidr_ipv6: str = ""
    """"": pods have IPv4 addresses alone."""
    node_cidr_mask_size: int = 24
    node_cidr_mask_size_ipv6: int = 64
    service_cluster_ip_range: str = "10.96.0.0/12"
    root_ca_file: str = ""
    leader_elect_lease_duration_s: int = 3

    node_monitor_grace_period_s: float = 4.0
    node_lease_duration_counts: bool = True
    """A node whose Lease holds for longer than the grace period is given that long."""
    node_monitor_period_s: float = 1.0
    node_startup_grace_period_s: float = 20.0
    pod_eviction_timeout_s: float | None = None
    """After a node's last sign of life its pods leave, those that have only the tolerations every pod gets; None: as
    those say, from when the node was tainted."""
    node_eviction_rate: float = 1.0
    secondary_node_eviction_rate: float = 0.1
    unhealthy_zone_threshold: float = 0.55
    large_cluster_size_threshold: int = 50

    concurrent_deployment_syncs: int = 5
    concurrent_replicaset_syncs: int = 5
    concurrent_statefulset_syncs: int = 5
    concurrent_daemonset_syncs: int = 2
    concurrent_job_syncs: int = 5
    concurrent_cron_job_syncs: int = 5
    concurrent_disruption_syncs: int = 2
    concurrent_hpa_syncs: int = 5
    horizontal_pod_autoscaler_sync_period_s: float = 15.0
    horizontal_pod_autoscaler_downscale_stabilization_s: float = 300.0
    horizontal_pod_autoscaler_cpu_initialization_period_s: float = 300.0
    horizontal_pod_autoscaler_initial_readiness_delay_s: float = 30.0
    horizontal_pod_autoscaler_tolerance: float = 0.1
    prometheus_url: str = ""
    """Where custom and external metrics are read when no metrics API is registered, such as
    http://prometheus.monitoring.svc:9090."""
    concurrent_endpoint_syncs: int = 5
    concurrent_service_endpoint_syncs: int = 5
    concurrent_namespace_syncs: int = 4
    concurrent_gc_syncs: int = 10
    concurrent_serviceaccount_syncs: int = 5
    concurrent_volume_syncs: int = 10
    concurrent_resource_quota_syncs: int = 5
    cluster_signing_duration_s: float = 365 * 86400.0
    resource_quota_sync_period_s: float = 300.0

    max_endpoints_per_slice: int = 100
    terminated_pod_gc_threshold: int = 12500
    pod_gc_quarantine_s: float = 5.0
    scale_down: ScaleDownRules = field(default_factory=ScaleDownRules)
    replica_set_burst: int = 500

    @property
    def node_ranges(self) -> list[tuple[str, int]]:
        """(pods' range, size of each node's part) of each family."""
        ranges = [(self.cluster_cidr, self.node_cidr_mask_size)]
        if self.cluster_cidr_ipv6:
            ranges.append((self.cluster_cidr_ipv6, self.node_cidr_mask_size_ipv6))
        return ranges

    def validate(self) -> None:
        """Raises ValueError naming the setting, what is wrong and what would be right."""
        for suffix in ("", "_ipv6") if self.cluster_cidr_ipv6 else ("",):
            self._check_range(f"cluster_cidr{suffix}", f"node_cidr_mask_size{suffix}")
        if self.node_monitor_grace_period_s <= self.node_monitor_period_s:
            raise ValueError(
                f"node_monitor_grace_period_s: {self.node_monitor_grace_period_s} must be greater than "
                f"node_monitor_period_s ({self.node_monitor_period_s}), the period of the kubelets' heartbeats"
            )
        if not 1 <= self.max_endpoints_per_slice <= 1000:
            raise ValueError(f"max_endpoints_per_slice: {self.max_endpoints_per_slice} must be between 1 and 1000")
        for name in self.__slots__:
            value = getattr(self, name)
            if name.startswith("concurrent_") and value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")

    def _check_range(self, cidr: str, mask_size: str) -> None:
        text, size = getattr(self, cidr), getattr(self, mask_size)
        try:
            net = ipaddress.ip_network(text)
        except ValueError as err:
            raise ValueError(f"{cidr}: {text!r}: {err}; for example 10.244.0.0/16") from err
        if not net.prefixlen <= size <= net.max_prefixlen - 2:
            raise ValueError(
                f"{mask_size}: {size} must lie between the prefix of {cidr} "
                f"({net.prefixlen}) and {net.max_prefixlen - 2}"
            )


def _fast() -> ControllerConfig:
    return ControllerConfig()


def _kubernetes() -> ControllerConfig:
    return replace(
        ControllerConfig(),
        node_monitor_grace_period_s=40.0,
        node_lease_duration_counts=False,
        node_monitor_period_s=5.0,
        node_startup_grace_period_s=60.0,
        pod_eviction_timeout_s=300.0,
        node_eviction_rate=0.1,
        secondary_node_eviction_rate=0.01,
        pod_gc_quarantine_s=40.0,
        leader_elect_lease_duration_s=15,
    )


_PROFILES: dict[str, Callable[[], ControllerConfig]] = {"fast": _fast, "kubernetes": _kubernetes}


def profile(name: Profile = "fast") -> ControllerConfig:
    if name not in _PROFILES:
        raise ValueError(f"profile: {name!r} is not known; use one of {', '.join(sorted(_PROFILES))}")
    return _PROFILES[name]()
