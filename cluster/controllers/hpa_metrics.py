"""One metric of a HorizontalPodAutoscaler: where it is read, what it proposes, and what the status shows of it.

A thin shell around `hpa_core`. Resource and ContainerResource metrics are computed from `Env.metrics`, the others are
read from the metrics APIs (`hpa_custom`). Reasons, messages and names are those of kubernetes
pkg/controller/podautoscaler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cluster.api.errors import ApiError
from cluster.api.pods import amount, is_ready
from cluster.api.quantity import format_quantity, millis
from cluster.api.selectors import LabelSelector
from cluster.controllers import hpa_core as core
from cluster.controllers.env import Env
from cluster.controllers.hpa_custom import CustomMetrics
from cluster.machinery.client import Obj
from cluster.machinery.pod_metrics import PodUsage


class Unable(Exception):
    """Why nothing can be decided now: (reason, message) of the condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled: `pods` are those that `selector` matches; `current` replicas are wanted now, `reported` are there
    by its status."""

    namespace: str
    selector: LabelSelector
    pods: Sequence[Obj]
    current: int
    reported: int


@dataclass(frozen=True, slots=True)
class Measured:
    """`shown` goes to status.currentMetrics; `name` says in words what was measured."""

    proposal: int
    shown: Obj
    name: str


class Metrics:
    def __init__(self, env: Env) -> None:
        self._env = env
        self._custom = CustomMetrics(env)
        config = env.config
        self.tuning = core.Tuning(
            Fraction(config.horizontal_pod_autoscaler_tolerance).limit_denominator(10_000),
            config.horizontal_pod_autoscaler_cpu_initialization_period_s,
            config.horizontal_pod_autoscaler_initial_readiness_delay_s,
            config.horizontal_pod_autoscaler_downscale_stabilization_s,
        )
        self._read = {
            "Resource": self._resource,
            "ContainerResource": self._resource,
            "Pods": self._of_pods,
            "Object": self._of_object,
            "External": self._external,
        }

    async def measure(self, metric: Obj, target: Target, now: float) -> Measured:
        """Raises Unable."""
        kind = metric["type"]
        source = metric[kind[0].lower() + kind[1:]]
        reason = f"FailedGet{kind}Metric"
        try:
            return await self._read[kind](kind, source, target, now)
        except ApiError as err:
            raise Unable(reason, f"failed to get {_what(kind, source)}: {err.message}") from err
        except core.NoMetrics as err:
            raise Unable(reason, f"failed to get {_what(kind, source)}: {err}") from err

    # ---- what pods use

    async def _resource(self, kind: str, source: Obj, target: Target, now: float) -> Measured:
        name, container, wish = source["name"], source.get("container", ""), source["target"]
        samples = _samples(target.pods, await self._usage(target, name), name, container)
        groups = core.group(target.pods, samples, now, cpu=name == "cpu", tuning=self.tuning)
        percent = wish.get("averageUtilization")
        requests = _requests(target.pods, name, container) if percent is not None else {}
        if percent is not None:
            proposal = core.by_utilization(target.current, samples, groups, requests, int(percent), self.tuning)
        else:
            wanted_each = amount(name, wish["averageValue"])
            proposal = core.by_average(target.current, samples, groups, wanted_each, self.tuning)
        used = sum(samples[n].value for n in groups.ready)
        shown: Obj = {"averageValue": _quantity(name, used // max(len(groups.ready), 1))}
        wanted = sum(requests.get(n, 0) for n in groups.ready)
        if wanted:
            shown["averageUtilization"] = used * 100 // wanted
        entry: Obj = {"name": name, "current": shown} | ({"container": container} if container else {})
        return Measured(proposal, _entry(kind, entry), _in_words(name, container, percent is not None))

    async def _usage(self, target: Target, resource: str) -> Mapping[str, PodUsage]:
        why = f"failed to get {resource} utilization: unable to get metrics for resource {resource}: "
        if self._env.outside.metrics is None:
            why += "unable to fetch metrics from resource metrics API: no source of pod metrics is configured"
            raise Unable("FailedGetResourceMetric", why)
        try:
            found = await self._env.outside.metrics.of_pods(target.namespace, target.pods)
        except ApiError as err:
            raise Unable("FailedGetResourceMetric", why + err.message) from err
        if not found:
            raise Unable("FailedGetResourceMetric", why + "no metrics returned from resource metrics API")
        return found

    # ---- what others measure, in thousandths

    async def _of_pods(self, kind: str, source: Obj, target: Target, now: float) -> Measured:
        metric = source["metric"]
        samples = await self._custom.of_pods(target.namespace, metric, target.selector)
        groups = core.group(target.pods, samples, now, cpu=False)
        wanted = millis(source["target"]["averageValue"])
        proposal = core.by_average(target.current, samples, groups, wanted, self.tuning)
        used = sum(samples[n].value for n in groups.ready)
        shown = {"averageValue": _milli_quantity(used // max(len(groups.ready), 1))}
        return Measured(proposal, _entry(kind, {"metric": metric, "current": shown}), f"pods metric {metric['name']}")

    async def _of_object(self, kind: str, source: Obj, target: Target, now: float) -> Measured:
        metric, ref = source["metric"], source["describedObject"]
        value = await self._custom.of_object(target.namespace, metric, ref)
        proposal, shown = _shared(value, source["target"], target, self.tuning)
        entry = {"metric": metric, "describedObject": ref, "current": shown}
        return Measured(proposal, _entry(kind, entry), f"{ref['kind']} metric {metric['name']}")

    async def _external(self, kind: str, source: Obj, target: Target, now: float) -> Measured:
        metric = source["metric"]
        value = await self._custom.external(target.namespace, metric)
        proposal, shown = _shared(value, source["target"], target, self.tuning)
        return Measured(proposal, _entry(kind, {"metric": metric, "current": shown}), _external_name(metric))


def _shared(value: int, wish: Obj, target: Target, tuning: core.Tuning) -> tuple[int, Obj]:
    """One number for all pods: as a whole (type Value), or divided by them (AverageValue)."""
    if wish.get("averageValue") is not None:
        each = -(-value // max(target.reported, 1))
        proposal = core.by_total_average(target.reported, value, millis(wish["averageValue"]), tuning)
        return proposal, {"averageValue": _milli_quantity(each)}
    ready = sum(1 for p in target.pods if is_ready(p) and (p.get("status") or {}).get("phase") == "Running")
    proposal = core.by_value(target.current, ready, value, millis(wish["value"]), tuning)
    return proposal, {"value": _milli_quantity(value)}


def _samples(pods: Sequence[Obj], usage: Mapping[str, PodUsage], name: str, container: str) -> dict[str, core.Sample]:
    samples: dict[str, core.Sample] = {}
    for pod in pods:
        seen = usage.get(pod["metadata"]["name"])
        if seen is None:
            continue
        value = seen.usage.get(container, {}).get(name) if container else seen.total(name)
        if value is not None:
            samples[pod["metadata"]["name"]] = core.Sample(value, seen.at, seen.window_s)
    return samples


def _requests(pods: Sequence[Obj], name: str, container: str) -> dict[str, int]:
    """Per pod, of all containers or the named one. Every container that counts has to request the resource."""
    out: dict[str, int] = {}
    for pod in pods:
        total = 0
        for c in pod["spec"]["containers"]:
            if container and c["name"] != container:
                continue
            request = ((c.get("resources") or {}).get("requests") or {}).get(name)
            if request is None:
                why = f"missing request for {name} in container {c['name']} of Pod {pod['metadata']['name']}"
                raise Unable("FailedGetResourceMetric", f"failed to get {name} utilization: {why}")
            total += amount(name, request)
        out[pod["metadata"]["name"]] = total
    return out


# ---- words


def _entry(kind: str, entry: Obj) -> Obj:
    return {"type": kind, kind[0].lower() + kind[1:]: entry}


def _what(kind: str, source: Obj) -> str:
    match kind:
        case "Pods" | "Object":
            return f"{kind.lower()} metric value"
        case "External":
            return f"external metric {source['metric']['name']}"
        case _:
            return f"{source['name']} utilization"


def _in_words(name: str, container: str, percent: bool) -> str:
    what = f"{name} {'container ' if container else ''}resource"
    return f"{what} utilization (percentage of request)" if percent else what


def _external_name(metric: Obj) -> str:
    selector = metric.get("selector")
    return f"external metric {metric['name']}({selector if selector else 'nil'})"


def _quantity(name: str, value: int) -> str:
    return _milli_quantity(value) if name == "cpu" else format_quantity(value)


def _milli_quantity(value: int) -> str:
    return format_quantity(Fraction(value, 1000))
