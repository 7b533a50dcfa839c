"""kube-scheduler's metric names (stability-frozen in Kubernetes), on prometheus_client."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8, 16)
_SHORT = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

PENDING_PODS = Gauge("scheduler_pending_pods", "Pending pods by queue.", ["queue"])
ATTEMPTS = Counter("scheduler_schedule_attempts", "Attempts to schedule pods, by result.", ["result", "profile"])
ATTEMPT_SECONDS = Histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Scheduling attempt latency: decision and binding.",
    ["result", "profile"],
    buckets=_SECONDS,
)
ALGORITHM_SECONDS = Histogram(
    "scheduler_scheduling_algorithm_duration_seconds",
    "The decision alone, per batch of pods decided together.",
    buckets=_SHORT,
)
SLI_SECONDS = Histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "From a pod entering the queue to its being bound.",
    ["attempts"],
    buckets=_SECONDS,
)
POD_ATTEMPTS = Histogram(
    "scheduler_pod_scheduling_attempts", "Attempts it took to bind a pod.", buckets=(1, 2, 4, 8, 16)
)
EXTENSION_POINT_SECONDS = Histogram(
    "scheduler_framework_extension_point_duration_seconds",
    "Time in an extension point, per batch of pods decided together.",
    ["extension_point", "status", "profile"],
    buckets=_SHORT,
)
PLUGIN_SECONDS = Histogram(
    "scheduler_plugin_execution_duration_seconds",
    "Time in one plugin, per batch of pods decided together; a sample of the batches.",
    ["plugin", "extension_point", "status"],
    buckets=_SHORT,
)
UNSCHEDULABLE_PODS = Gauge(
    "scheduler_unschedulable_pods", "Pods that a plugin refused when they were last tried.", ["plugin", "profile"]
)
CACHE_SIZE = Gauge("scheduler_scheduler_cache_size", "Nodes, pods and assumed pods that are known.", ["type"])
TURNS_LOST = Counter("sk8_scheduler_turns_lost", "Times that another scheduler was found to bind pods as well.")
PREEMPTION_ATTEMPTS = Counter("scheduler_preemption_attempts", "Pods for which victims were looked for.")
PREEMPTION_VICTIMS = Histogram(
    "scheduler_preemption_victims", "Victims per preemption.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
