"""How many replicas a HorizontalPodAutoscaler wants.

Pure: metrics and pods in, a number out; history (past recommendations and scalings) is passed in. Source: kubernetes
pkg/controller/podautoscaler/{replica_calculator,horizontal}.go.

    per metric   ratio = used / wanted; desired = ceil(ratio * pods that count); within `tolerance` nothing changes
    missing      pods without a sample use all they may when that would scale down, nothing when it would scale up
    not ready    pods that just started do not count when scaling down, and use nothing when scaling up
    all metrics  the largest proposal; then stabilization windows; then the limits of the scaling policies

Invariant: what is assumed of pods without samples may weaken a proposal, never turn its direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from cluster.api.meta import condition, parse_time
from cluster.machinery.client import Obj


@dataclass(frozen=True, slots=True)
class Tuning:
    """kube-controller-manager's flags --horizontal-pod-autoscaler-*, with their defaults."""

    tolerance: Fraction = Fraction(1, 10)
    cpu_initialization_s: float = 300.0
    initial_readiness_s: float = 30.0
    downscale_window_s: float = 300.0

    def tolerates(self, ratio: Fraction) -> bool:
        return abs(ratio - 1) <= self.tolerance


USUAL = Tuning()


class NoMetrics(ValueError):
    """No pod that counts has a sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`value` in the metric's unit (millicores, bytes, ...), averaged over `window_s` before `at`."""

    value: int
    at: float
    window_s: float


@dataclass(frozen=True, slots=True)
class Groups:
    """Names of pods: `ready` ones count, `unready` and `missing` as the module says, `ignored` never."""

    ready: tuple[str, ...]
    unready: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Past:
    """A recommendation (`replicas` wanted) or a scaling (`replicas` added or, negative, removed) at a time."""

    at: float
    replicas: int


# ---- one metric


def group(
    pods: Sequence[Obj], samples: Mapping[str, Sample], now: float, *, cpu: bool, tuning: Tuning = USUAL
) -> Groups:
    """Sort the pods of the target. Only CPU is distorted by starting up."""
    ready: list[str] = []
    unready: list[str] = []
    missing: list[str] = []
    ignored: list[str] = []
    for pod in pods:
        name, phase = pod["metadata"]["name"], (pod.get("status") or {}).get("phase")
        if "deletionTimestamp" in pod["metadata"] or phase == "Failed":
            ignored.append(name)
        elif phase == "Pending":
            unready.append(name)
        elif name not in samples:
            missing.append(name)
        elif cpu and _starting(pod, samples[name], now, tuning):
            unready.append(name)
        else:
            ready.append(name)
    return Groups(tuple(ready), tuple(unready), tuple(missing), tuple(ignored))


def _starting(pod: Obj, sample: Sample, now: float, tuning: Tuning) -> bool:
    status = pod.get("status") or {}
    ready = condition(pod, "Ready")
    if ready is None or not status.get("startTime") or not ready.get("lastTransitionTime"):
        return True
    started, turned = parse_time(status["startTime"]), parse_time(ready["lastTransitionTime"])
    if started + tuning.cpu_initialization_s > now:
        return ready.get("status") == "False" or sample.at < turned + sample.window_s
    return ready.get("status") == "False" and started + tuning.initial_readiness_s > turned


def by_utilization(
    current: int,
    samples: Mapping[str, Sample],
    groups: Groups,
    requests: Mapping[str, int],
    target_percent: int,
    tuning: Tuning = USUAL,
) -> int:
    """Target type Utilization: percent of what the pods request. Raises NoMetrics."""
    wanted = {name: requests[name] for name in (*groups.ready, *groups.unready, *groups.missing) if name in requests}

    def ratio(used: Mapping[str, int]) -> Fraction:
        total = sum(wanted[name] for name in used)
        if total == 0:
            raise NoMetrics("no metrics returned matched known pods")
        return Fraction(sum(used.values()) * 100, total) / target_percent

    fallback = {name: wanted[name] * max(100, target_percent) // 100 for name in groups.missing}
    return _proposal(current, samples, groups, ratio, fallback, tuning)


def by_average(current: int, samples: Mapping[str, Sample], groups: Groups, target: int, tuning: Tuning = USUAL) -> int:
    """Target type AverageValue of a pod's own metric. Raises NoMetrics."""

    def ratio(used: Mapping[str, int]) -> Fraction:
        return Fraction(sum(used.values()), len(used) * target)

    return _proposal(current, samples, groups, ratio, dict.fromkeys(groups.missing, target), tuning)


def by_value(current: int, ready: int, used: int, target: int, tuning: Tuning = USUAL) -> int:
    """Target type Value of an object or external metric; `ready` pods share the load now."""
    ratio = Fraction(used, target)
    return current if tuning.tolerates(ratio) else ceil(ratio * ready)


def by_total_average(current: int, used: int, target: int, tuning: Tuning = USUAL) -> int:
    """Target type AverageValue of an object or external metric: the total, shared by the replicas."""
    if current and tuning.tolerates(Fraction(used, target * current)):
        return current
    return ceil(Fraction(used, target))


def _proposal(
    current: int,
    samples: Mapping[str, Sample],
    groups: Groups,
    ratio_of: Callable[[Mapping[str, int]], Fraction],
    fallback: Mapping[str, int],
    tuning: Tuning,
) -> int:
    used = {name: samples[name].value for name in groups.ready}
    if not used:
        raise NoMetrics("did not receive metrics for targeted pods (pods might be unready)")
    ratio = ratio_of(used)
    up_with_unready = bool(groups.unready) and ratio > 1
    if not up_with_unready and not groups.missing:
        return current if tuning.tolerates(ratio) else ceil(ratio * len(used))
    if ratio < 1:
        used.update(fallback)
    elif ratio > 1:
        used.update(dict.fromkeys(groups.missing, 0))
    if up_with_unready:
        used.update(dict.fromkeys(groups.unready, 0))
    careful = ratio_of(used)
    if tuning.tolerates(careful) or (ratio < 1 < careful) or (careful < 1 < ratio):
        return current
    desired = ceil(careful * len(used))
    turned = (careful < 1 and desired > current) or (careful > 1 and desired < current)
    return current if turned else desired


# ---- all metrics: windows and limits


def bounded(
    spec: Obj,
    current: int,
    proposal: int,
    recommendations: Sequence[Past],
    scalings: Sequence[Past],
    now: float,
    tuning: Tuning = USUAL,
) -> int:
    """What to scale to: the proposal within windows, policies, minReplicas and maxReplicas of the autoscaler's spec.

    The caller adds `proposal` to the recommendations, and what it did to the scalings.
    """
    low, high = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
    if current > high:
        return high
    if current < low:
        return low
    behavior = spec.get("behavior") or {}
    steady = _stabilized(behavior, current, proposal, recommendations, now, tuning.downscale_window_s)
    if steady > current:
        limit = _up_limit(behavior.get("scaleUp"), current, scalings, now)
        return min(steady, high, max(limit, current))
    if steady < current:
        limit = _down_limit(behavior.get("scaleDown"), current, scalings, now)
        return max(steady, low, min(limit, current))
    return current


def _stabilized(
    behavior: Obj, current: int, proposal: int, recommendations: Sequence[Past], now: float, downscale_window_s: float
) -> int:
    """Up only as far as all recommendations of the up window go, down only as far as those of the down window."""
    up = down = proposal
    up_window = _window(behavior.get("scaleUp"), 0.0)
    down_window = _window(behavior.get("scaleDown"), downscale_window_s)
    for past in recommendations:
        if past.at > now - up_window:
            up = min(up, past.replicas)
        if past.at > now - down_window:
            down = max(down, past.replicas)
    return min(max(current, up), down)


def _window(rules: Obj | None, default_s: float) -> float:
    value = (rules or {}).get("stabilizationWindowSeconds")
    return default_s if value is None else float(value)


def _up_limit(rules: Obj | None, current: int, scalings: Sequence[Past], now: float) -> int:
    if rules is None:
        return max(2 * current, 4)
    if rules.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rules.get("policies") or []:
        begin, value = current - _net(scalings, float(policy["periodSeconds"]), now), int(policy["value"])
        pods = policy["type"] == "Pods"
        limits.append(begin + value if pods else ceil(begin * (1 + Fraction(value, 100))))
    pick = min if rules.get("selectPolicy") == "Min" else max
    return pick(limits, default=current)


def _down_limit(rules: Obj | None, current: int, scalings: Sequence[Past], now: float) -> int:
    if rules is None:
        return 0
    if rules.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rules.get("policies") or []:
        begin, value = current - _net(scalings, float(policy["periodSeconds"]), now), int(policy["value"])
        pods = policy["type"] == "Pods"
        limits.append(begin - value if pods else int(begin * (1 - Fraction(value, 100))))
    pick = max if rules.get("selectPolicy") == "Min" else min
    return pick(limits, default=current)


def _net(scalings: Sequence[Past], period_s: float, now: float) -> int:
    """Replicas added less removed within the period."""
    return sum(past.replicas for past in scalings if past.at > now - period_s)
