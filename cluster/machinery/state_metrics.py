"""Objects of the API as metrics, under the names and labels of kube-state-metrics, for dashboards and alerts.

`families(objects)` is pure. `StateCollector` is what a metrics page asks: it reads shared informers, and yields nothing
on an instance that does not lead, so that a sum over all instances counts each object once.

Names and labels: kube-state-metrics' documentation, stable metrics of the kinds below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.registry import Collector

from cluster.api.meta import parse_time
from cluster.api.nodes import internal_ip
from cluster.api.quantity import parse_quantity
from cluster.machinery.client import Obj
from cluster.machinery.informer import Informers

Sample = tuple[str, dict[str, str], float]
"""(name without the kind's prefix, labels, value)."""

PHASES = ("Pending", "Succeeded", "Failed", "Unknown", "Running")
_STATUSES = ("true", "false", "unknown")


def families(resource: str, objects: Iterable[Obj]) -> Iterator[Metric]:
    """The metrics of all `objects` of one resource of `RESOURCES`, one family each."""
    kind, samples = RESOURCES[resource]
    found: dict[str, Metric] = {}
    for obj in objects:
        for name, labels, value in samples(obj):
            full = f"kube_{kind}_{name}"
            family = found.get(full)
            if family is None:
                counter = full.endswith("_total")
                family = found[full] = Metric(
                    full.removesuffix("_total"), f"{name} of each {kind}", "counter" if counter else "gauge"
                )
            family.add_sample(full, labels, value)
    yield from found.values()


class StateCollector(Collector):
    """Register it with a `CollectorRegistry`. May be asked from another thread than the loop's."""

    def __init__(self, informers: Informers, leading: Callable[[], bool]) -> None:
        self._informers = {resource: informers.of(resource) for resource in RESOURCES}
        self._leading = leading

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: which families there are depends on the objects."""
        return ()

    def collect(self) -> Iterator[Metric]:
        if self._leading():
            for resource, informer in self._informers.items():
                yield from families(resource, informer.items())


# -- what each kind tells --------------------------------------------------------------------------------------------
def _named(kind: str, obj: Obj) -> dict[str, str]:
    meta = obj["metadata"]
    name = {kind: str(meta["name"])}
    return {"namespace": str(meta["namespace"])} | name if meta.get("namespace") else name


def _created(labels: dict[str, str], obj: Obj) -> Iterator[Sample]:
    stamp = obj["metadata"].get("creationTimestamp")
    if stamp:
        yield "created", labels, parse_time(stamp)


def _numbers(labels: dict[str, str], at: Mapping[str, object], names: Mapping[str, str]) -> Iterator[Sample]:
    """`names`: metric by field; a field that is not there counts as 0, as the API means it."""
    for field, metric in names.items():
        value = at.get(field, 0)
        if isinstance(value, int | float):
            yield metric, labels, float(value)


def _one_of(metric: str, labels: dict[str, str], label: str, value: str, all_values: Sequence[str]) -> Iterator[Sample]:
    for each in all_values:
        yield metric, labels | {label: each}, float(each == value)


def _conditions(metric: str, labels: dict[str, str], obj: Obj) -> Iterator[Sample]:
    for condition in obj.get("status", {}).get("conditions") or ():
        about = labels | {"condition": str(condition["type"])}
        yield from _one_of(metric, about, "status", str(condition["status"]).lower(), _STATUSES)


def _amounts(metric: str, labels: dict[str, str], amounts: Mapping[str, object]) -> Iterator[Sample]:
    for resource, amount in amounts.items():
        unit = {"cpu": "core", "pods": "integer"}.get(resource, "byte" if "/" not in resource else "integer")
        name = "".join(c if c.isalnum() else "_" for c in resource)
        yield metric, labels | {"resource": name, "unit": unit}, float(parse_quantity(str(amount)))


def _pod(pod: Obj) -> Iterator[Sample]:
    labels = _named("pod", pod) | {"uid": str(pod["metadata"].get("uid", ""))}
    spec, status = pod["spec"], pod.get("status", {})
    owner: Obj = next((o for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")), {})
    yield "info", labels | {
        "host_ip": str(status.get("hostIP", "")), "pod_ip": str(status.get("podIP", "")),
        "node": str(spec.get("nodeName", "")), "created_by_kind": str(owner.get("kind", "")),
        "created_by_name": str(owner.get("name", "")), "priority_class": str(spec.get("priorityClassName", "")),
        "host_network": str(bool(spec.get("hostNetwork"))).lower(),
    }, 1.0  # fmt: skip
    yield from _created(labels, pod)
    if status.get("startTime"):
        yield "start_time", labels, parse_time(status["startTime"])
    yield from _one_of("status_phase", labels, "phase", str(status.get("phase", "Unknown")), PHASES)
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Ready", "PodScheduled"):
            metric = "status_ready" if condition["type"] == "Ready" else "status_scheduled"
            yield from _one_of(metric, labels, "condition", str(condition["status"]).lower(), _STATUSES)
            if condition["status"] == "True" and condition.get("lastTransitionTime"):
                yield f"{metric}_time", labels, parse_time(condition["lastTransitionTime"])
    if status.get("reason"):
        yield "status_reason", labels | {"reason": str(status["reason"])}, 1.0
    for container in spec.get("containers") or ():
        at = labels | {"container": str(container["name"]), "node": str(spec.get("nodeName", ""))}
        resources = container.get("resources") or {}
        yield from _amounts("container_resource_requests", at, resources.get("requests") or {})
        yield from _amounts("container_resource_limits", at, resources.get("limits") or {})
    for container in status.get("containerStatuses") or ():
        yield from _container(labels | {"container": str(container["name"])}, container)


def _container(labels: dict[str, str], status: Obj) -> Iterator[Sample]:
    state, last = status.get("state") or {}, status.get("lastState") or {}
    yield "container_info", labels | {"image": str(status.get("image", ""))}, 1.0
    yield "container_status_restarts_total", labels, float(status.get("restartCount", 0))
    yield "container_status_ready", labels, float(bool(status.get("ready")))
    for name in ("running", "waiting", "terminated"):
        yield f"container_status_{name}", labels, float(name in state)
    for name in ("waiting", "terminated"):
        if state.get(name, {}).get("reason"):
            yield f"container_status_{name}_reason", labels | {"reason": str(state[name]["reason"])}, 1.0
    if last.get("terminated", {}).get("reason"):
        reason = {"reason": str(last["terminated"]["reason"])}
        yield "container_status_last_terminated_reason", labels | reason, 1.0


def _node(node: Obj) -> Iterator[Sample]:
    labels = _named("node", node)
    spec, status = node.get("spec", {}), node.get("status", {})
    info = status.get("nodeInfo", {})
    yield "info", labels | {
        "kernel_version": str(info.get("kernelVersion", "")), "os_image": str(info.get("osImage", "")),
        "container_runtime_version": str(info.get("containerRuntimeVersion", "")), "internal_ip": internal_ip(node),
        "kubelet_version": str(info.get("kubeletVersion", "")), "pod_cidr": str(spec.get("podCIDR", "")),
    }, 1.0  # fmt: skip
    yield from _created(labels, node)
    yield "spec_unschedulable", labels, float(bool(spec.get("unschedulable")))
    for taint in spec.get("taints") or ():
        about = {"key": str(taint["key"]), "value": str(taint.get("value", "")), "effect": str(taint["effect"])}
        yield "spec_taint", labels | about, 1.0
    yield from _conditions("status_condition", labels, node)
    yield from _amounts("status_capacity", labels, status.get("capacity") or {})
    yield from _amounts("status_allocatable", labels, status.get("allocatable") or {})


def _replicated(kind: str, fields: Mapping[str, str]) -> Callable[[Obj], Iterator[Sample]]:
    """Deployments and their like: wanted replicas, replicas by state, generations, conditions."""

    def samples(obj: Obj) -> Iterator[Sample]:
        labels = _named(kind, obj)
        spec, status, meta = obj["spec"], obj.get("status", {}), obj["metadata"]
        yield from _created(labels, obj)
        if "replicas" in spec:
            yield ("replicas" if kind == "statefulset" else "spec_replicas"), labels, float(spec["replicas"])
        yield "metadata_generation", labels, float(meta.get("generation", 0))
        yield "status_observed_generation", labels, float(status.get("observedGeneration", 0))
        yield from _numbers(labels, status, fields)
        yield from _conditions("status_condition", labels, obj)

    return samples


def _job(job: Obj) -> Iterator[Sample]:
    labels = _named("job_name", job)
    status = job.get("status", {})
    yield from _created(labels, job)
    counts = {"active": "status_active", "succeeded": "status_succeeded", "failed": "status_failed"}
    yield from _numbers(labels, status, counts)
    for field, metric in (("startTime", "status_start_time"), ("completionTime", "status_completion_time")):
        if status.get(field):
            yield metric, labels, parse_time(status[field])
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Complete", "Failed"):
            metric = condition["type"].lower()
            yield from _one_of(metric, labels, "condition", str(condition["status"]).lower(), _STATUSES)


def _phased(kind: str, phases: Sequence[str]) -> Callable[[Obj], Iterator[Sample]]:
    def samples(obj: Obj) -> Iterator[Sample]:
        labels = _named(kind, obj)
        yield from _created(labels, obj)
        yield from _one_of("status_phase", labels, "phase", str(obj.get("status", {}).get("phase", "")), phases)

    return samples


def _service(service: Obj) -> Iterator[Sample]:
    labels = _named("service", service)
    spec = service["spec"]
    yield "info", labels | {
        "cluster_ip": str(spec.get("clusterIP", "")), "external_name": str(spec.get("externalName", "")),
        "load_balancer_ip": str(spec.get("loadBalancerIP", "")),
    }, 1.0  # fmt: skip
    yield from _created(labels, service)
    yield "spec_type", labels | {"type": str(spec.get("type", "ClusterIP"))}, 1.0


def _autoscaler(hpa: Obj) -> Iterator[Sample]:
    labels = _named("horizontalpodautoscaler", hpa)
    limits = {"minReplicas": "spec_min_replicas", "maxReplicas": "spec_max_replicas"}
    counts = {"currentReplicas": "status_current_replicas", "desiredReplicas": "status_desired_replicas"}
    yield from _numbers(labels, {"minReplicas": 1} | hpa["spec"], limits)
    yield from _numbers(labels, hpa.get("status", {}), counts)
    yield from _conditions("status_condition", labels, hpa)


_DEPLOYMENT = {
    "replicas": "status_replicas",
    "readyReplicas": "status_replicas_ready",
    "availableReplicas": "status_replicas_available",
    "unavailableReplicas": "status_replicas_unavailable",
    "updatedReplicas": "status_replicas_updated",
}
_REPLICA_SET = {
    "replicas": "status_replicas",
    "readyReplicas": "status_ready_replicas",
    "fullyLabeledReplicas": "status_fully_labeled_replicas",
}
_STATEFUL_SET = {
    "replicas": "status_replicas",
    "readyReplicas": "status_replicas_ready",
    "availableReplicas": "status_replicas_available",
    "currentReplicas": "status_replicas_current",
    "updatedReplicas": "status_replicas_updated",
}
_DAEMON_SET = {
    "desiredNumberScheduled": "status_desired_number_scheduled",
    "currentNumberScheduled": "status_current_number_scheduled",
    "numberReady": "status_number_ready",
    "numberAvailable": "status_number_available",
    "numberUnavailable": "status_number_unavailable",
    "numberMisscheduled": "status_number_misscheduled",
    "updatedNumberScheduled": "status_updated_number_scheduled",
}
RESOURCES: Mapping[str, tuple[str, Callable[[Obj], Iterator[Sample]]]] = {
    "pods": ("pod", _pod),
    "nodes": ("node", _node),
    "namespaces": ("namespace", _phased("namespace", ("Active", "Terminating"))),
    "services": ("service", _service),
    "deployments.apps": ("deployment", _replicated("deployment", _DEPLOYMENT)),
    "replicasets.apps": ("replicaset", _replicated("replicaset", _REPLICA_SET)),
    "statefulsets.apps": ("statefulset", _replicated("statefulset", _STATEFUL_SET)),
    "daemonsets.apps": ("daemonset", _replicated("daemonset", _DAEMON_SET)),
    "jobs.batch": ("job", _job),
    "persistentvolumeclaims": (
        "persistentvolumeclaim",
        _phased("persistentvolumeclaim", ("Lost", "Bound", "Pending")),
    ),
    "persistentvolumes": (
        "persistentvolume",
        _phased("persistentvolume", ("Pending", "Available", "Bound", "Released", "Failed")),
    ),
    "horizontalpodautoscalers.autoscaling": ("horizontalpodautoscaler", _autoscaler),
}
"""Resource to (the kind as metrics are named, what one object tells)."""
