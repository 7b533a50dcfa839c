"""How many replicas a HorizontalPodAutoscaler wants.

Pure: metrics and pods in, a number out; history (past recommendations and scalings) is passed in. Source: kubernetes
pkg/controller/podautoscaler/{replica_calculator,horizontal}.go.

    per metric   ratio = used / wanted; desired = ceil(ratio * pods that count); within `tolerance` nothing changes
    missing      pods without a sample use all they may when that would scale down, nothing when it would scale up
    not ready    pods that just started do not count when scaling down, and use nothing when scaling up
    all metrics  the largest proposal; then stabilization windows; then the limits of the scaling policies

Use is taken in whole percents, and averages in whole units, as Kubernetes does: 55.9 % is 55 %, which a target of 50 %
still tolerates.

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
        return Fraction(sum(used.values()) * 100 // total, target_percent)

    fallback = {name: wanted[name] * max(100, target_percent) // 100 for name in groups.missing}
    return _proposal(current, samples, groups, ratio, fallback, tuning)


def by_average(current: int, samples: Mapping[str, Sample], groups: Groups, target: int, tuning: Tuning = USUAL) -> int:
    """Target type AverageValue of a pod's own metric. Raises NoMetrics."""

    def ratio(used: Mapping[str, int]) -> Fraction:
        return Fraction(sum(used.values()) // len(used), target)

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


@dataclass(frozen=True, slots=True)
class Reason:
    """Of a condition, with its message."""

    name: str
    text: str


_READY = Reason("ReadyForNewScale", "recommended size matches current size")
_HELD_UP = Reason(
    "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
)
_HELD_DOWN = Reason(
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)
_WITHIN = Reason("DesiredWithinRange", "the desired count is within the acceptable range")
_UP_RATE = Reason("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_DOWN_RATE = Reason("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
_MOST = Reason("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_LEAST = Reason("TooFewReplicas", "the desired replica count is less than the minimum replica count")


@dataclass(frozen=True, slots=True)
class Bounded:
    """What to scale to; why it was held or not (condition AbleToScale), and what limited it (ScalingLimited)."""

    desired: int
    held: Reason = _READY
    limit: Reason = _WITHIN

    @property
    def limited(self) -> bool:
        return self.limit is not _WITHIN


def _range(spec: Obj) -> tuple[int, int]:
    low = spec.get("minReplicas")
    return 1 if low is None else int(low), int(spec["maxReplicas"])


def out_of_range(spec: Obj, current: int) -> tuple[int, str] | None:
    """The size to go to whatever metrics say, and why; None within minReplicas and maxReplicas."""
    low, high = _range(spec)
    if current > high:
        return high, "Current number of replicas above Spec.MaxReplicas"
    return (low, "Current number of replicas below Spec.MinReplicas") if current < low else None


def bounded(
    spec: Obj,
    current: int,
    proposal: int,
    recommendations: Sequence[Past],
    scalings: Sequence[Past],
    now: float,
    tuning: Tuning = USUAL,
) -> Bounded:
    """What to scale to from a size within range: the proposal within windows, policies, minReplicas and maxReplicas.

    The caller adds `proposal` to the recommendations, and what it did to the scalings.
    """
    low, high = _range(spec)
    behavior = spec.get("behavior") or {}
    steady = _stabilized(behavior, current, proposal, recommendations, now, tuning.downscale_window_s)
    held = _READY if steady == proposal else _HELD_UP if proposal >= current else _HELD_DOWN
    if steady > current:
        rate = max(_up_limit(behavior.get("scaleUp"), current, scalings, now), current)
        end, why = (rate, _UP_RATE) if rate < high else (high, _MOST)
        return Bounded(min(steady, end), held, why if steady > end else _WITHIN)
    if steady < current:
        rate = min(_down_limit(behavior.get("scaleDown"), current, scalings, now), current)
        end, why = (rate, _DOWN_RATE) if rate > low else (low, _LEAST)
        return Bounded(max(steady, end), held, why if steady < end else _WITHIN)
    return Bounded(steady, held)


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
