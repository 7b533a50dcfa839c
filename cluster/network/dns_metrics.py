"""What a DNS server has answered, under the names CoreDNS gives it.

Counted in plain lists, because a prometheus Histogram's lock and float sums would cost as much as the answer; they are
turned into samples only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from cluster.network.dns_cache import Cache

_DNS_BUCKETS_S = [0.00001 * 2**i for i in range(18)]


class DnsCounters:
    """What CoreDNS calls requests_total, request_duration_seconds and responses_total, for one server."""

    def __init__(self, server: str, cache: Cache) -> None:
        self._server = server
        self._cache = cache
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
        hits = CounterMetricFamily(
            "coredns_cache_hits", "Answers of upstreams found in the cache", labels=["server", "type", "zones", "view"]
        )
        for kind, count in self._cache.hits.items():
            hits.add_metric([self._server, kind, ".", ""], count)
        yield hits
        misses = CounterMetricFamily(
            "coredns_cache_misses", "Names asked of upstreams", labels=["server", "zones", "view"]
        )
        misses.add_metric([self._server, ".", ""], self._cache.misses)
        yield misses


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
