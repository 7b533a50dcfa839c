"""The API server's metrics, under kube-apiserver's names so that its dashboards and alerts work.

Module-level collectors.

Label children are looked up once and kept: the lookup by keyword is dearer than the observation.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from cluster.apiserver.requestinfo import RequestInfo

_LABELS = ("verb", "group", "version", "resource", "subresource", "scope", "component")
_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1,
    1.25,
    1.5,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
    45,
    60,
)

DURATION = Histogram(
    "apiserver_request_duration_seconds",
    "Response latency of requests that are not long-running",
    _LABELS,
    buckets=_BUCKETS,
)
REQUESTS = Counter("apiserver_request", "Requests answered", (*_LABELS, "code"))
RESPONSE_BYTES = Counter("apiserver_response_bytes", "Bytes of response bodies")
INFLIGHT = Gauge("apiserver_current_inflight_requests", "Requests being served", ("request_kind",))
_FLOW = ("priority_level", "flow_schema")
FLOW_DISPATCHED = Counter("apiserver_flowcontrol_dispatched_requests", "Requests that got a seat", _FLOW)
FLOW_REJECTED = Counter("apiserver_flowcontrol_rejected_requests", "Requests refused with 429", (*_FLOW, "reason"))
FLOW_EXECUTING = Gauge("apiserver_flowcontrol_current_executing_requests", "Requests being served", _FLOW)
FLOW_SEATS = Gauge("apiserver_flowcontrol_current_executing_seats", "Seats they have", _FLOW)
FLOW_QUEUED = Gauge("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait for their turn", _FLOW)
FLOW_WAIT = Histogram(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "How long requests that had to wait waited for their turn",
    ("execute", *_FLOW),
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
)
# In the order nominal, lower, upper.
FLOW_LIMITS = tuple(
    Gauge(f"apiserver_flowcontrol_{which}_limit_seats", f"{which.capitalize()} limit of seats", ("priority_level",))
    for which in ("nominal", "lower", "upper")
)
AUDIT_EVENTS = Counter("apiserver_audit_event", "Audit events made")
AUDIT_REJECTED = Counter("apiserver_audit_requests_rejected", "Audit events that could not be written")
LONG_RUNNING = Gauge("apiserver_longrunning_requests", "Open long-running requests", ("verb", "resource"))
WATCHERS = Gauge("apiserver_registered_watchers", "Open watches")
WATCH_EVENTS = Counter("apiserver_watch_events", "Events sent to watchers", ("resource",))
SLOW_WATCHERS = Counter(
    "apiserver_terminated_watchers", "Watches closed because their client was too slow", ("resource",)
)
CACHE_REVISION = Gauge("apiserver_cache_revision", "Store revision that the byte cache has applied")
WATCH_CACHE_CAPACITY = Gauge("watch_cache_capacity", "Events a resource's window may hold", ("group", "resource"))
CACHE_WAIT = Histogram(
    "apiserver_watch_cache_read_wait_seconds",
    "ReadIndex and wait for the cache, per consistent read",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3),
)
FEED_ERRORS = Counter("apiserver_cache_feed_errors", "Breaks of the stream that feeds the byte cache")
AUTH_ATTEMPTS = Counter("authentication_attempts", "Authentication attempts", ("result",))
INTERNAL_ERRORS = Counter("apiserver_internal_errors", "Requests that failed by a fault of the server")

_LABEL_VERBS = {"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH"}


def _scope(info: RequestInfo) -> str:
    if info.name:
        return "resource"
    return "namespace" if info.namespace else "cluster"


@lru_cache(maxsize=4096)
def duration_of(verb: str, group: str, version: str, resource: str, subresource: str, scope: str) -> Histogram:
    return DURATION.labels(verb, group, version, resource, subresource, scope, "apiserver")


@lru_cache(maxsize=4096)
def requests_of(verb: str, group: str, version: str, resource: str, subresource: str, scope: str, code: int) -> Counter:
    return REQUESTS.labels(verb, group, version, resource, subresource, scope, "apiserver", str(code))


def observe(info: RequestInfo | None, code: int, seconds: float, *, known: bool) -> None:
    """Record one answered request; unknown resources are not labelled by name, so clients cannot grow the label set."""
    if info is None or not info.is_resource or not known:
        verb = "GET" if info is not None and info.verb == "get" else "OTHER"
        requests_of(verb, "", "", "", "", "", code).inc()
        return
    verb = _LABEL_VERBS.get(info.verb, info.verb.upper())
    labels = (verb, info.group, info.version, info.resource, info.subresource, _scope(info))
    requests_of(*labels, code).inc()
    if not info.long_running:
        duration_of(*labels).observe(seconds)
