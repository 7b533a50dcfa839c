"""kube-scheduler's metric names (stability-frozen in Kubernetes), on prometheus_client."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8, 16)

PENDING_PODS = Gauge("scheduler_pending_pods", "Pending pods by queue.", ["queue"])
ATTEMPTS = Counter("scheduler_schedule_attempts", "Attempts to schedule pods, by result.", ["result", "profile"])
ATTEMPT_SECONDS = Histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Scheduling attempt latency: decision and binding.",
    ["result", "profile"],
    buckets=_SECONDS,
)
SLI_SECONDS = Histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "From a pod entering the queue to its being bound.",
    ["attempts"],
    buckets=_SECONDS,
)
