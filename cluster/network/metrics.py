"""The service proxy's metrics, under the names kube-proxy gives them. Module-level, as prometheus_client wants."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SYNC_SECONDS = Histogram(
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "Time of one transaction of service rules",
    buckets=[0.0001 * 2**i for i in range(18)],
)
PROGRAMMING_SECONDS = Histogram(
    "kubeproxy_network_programming_duration_seconds",
    "From a pod's or Service's change to rules in effect on this node",
    buckets=[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60],
)
SYNC_LAST = Gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When rules were last in effect")
SYNC_ERRORS = Counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Transactions the kernel refused")
HEALED = Counter("kubeproxy_sync_full_proxy_rules_total", "Whole tables put in place", ["reason"])
SERVICE_CHANGES = Counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services seen")
ENDPOINT_CHANGES = Counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices seen")
