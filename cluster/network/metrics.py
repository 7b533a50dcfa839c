"""The metrics of this room, under the names kube-proxy and CoreDNS give them. Module-level, as prometheus_client wants.

DNS is counted by `DnsCounters` in plain lists, because a prometheus Histogram's lock and float sums would cost as much
as the answer; they are turned into samples only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

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

_DNS_BUCKETS_S = [0.00001 * 2**i for i in range(18)]


class DnsCounters:
    """What CoreDNS calls requests_total, request_duration_seconds and responses_total, for one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._requests: dict[tuple[str, int], int] = {}
        self._responses: dict[int, int] = {}
        self._buckets = [0] * (len(_DNS_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def count(self, proto: str, qtype: int, rcode: int, duration_s: float) -> None:
        key = (proto, qtype)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._responses[rcode] = self._responses.get(rcode, 0) + 1
        self._buckets[bisect_left(_DNS_BUCKETS_S, duration_s)] += 1
        self._sum_s += duration_s

    @property
    def total(self) -> int:
        return sum(self._requests.values())

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "coredns_dns_requests", "DNS requests", labels=["server", "zone", "view", "proto", "family", "type"]
        )
        for (proto, qtype), count in sorted(self._requests.items()):
            requests.add_metric([self._server, ".", "", proto, "1", _TYPE_NAMES.get(qtype, "other")], count)
        yield requests
        responses = CounterMetricFamily(
            "coredns_dns_responses", "DNS responses", labels=["server", "zone", "view", "rcode", "plugin"]
        )
        for rcode, count in sorted(self._responses.items()):
            responses.add_metric([self._server, ".", "", _RCODE_NAMES.get(rcode, str(rcode)), ""], count)
        yield responses
        durations = HistogramMetricFamily(
            "coredns_dns_request_duration_seconds", "Time to answer", labels=["server", "zone", "view"]
        )
        running, buckets = 0, []
        for bound, count in zip([*_DNS_BUCKETS_S, float("inf")], self._buckets, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
        durations.add_metric([self._server, ".", ""], buckets, self._sum_s)
        yield durations


_TYPE_NAMES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    65: "HTTPS",
}
_RCODE_NAMES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
