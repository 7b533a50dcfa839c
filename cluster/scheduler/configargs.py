"""The args of kube-scheduler's plugins (pluginConfig) into fields of a Profile. Pure.

Each reader takes (args, path, problems) and returns the fields it sets.
Source: k8s.io/kube-scheduler/config/v1, pkg/scheduler/apis/config/validation/validation_pluginargs.go.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

from cluster.scheduler.config import STRATEGIES, DefaultConstraint
from cluster.scheduler.shape import canonical

Document = dict[str, Any]
_TYPE = ("apiVersion", "kind")
_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


class Problems(Protocol):
    """`configfile.Problems`."""

    def invalid(self, path: str, value: Any, why: str) -> None: ...
    def add(self, text: str) -> None: ...
    def mapping(self, value: Any, path: str, known: tuple[str, ...]) -> Document: ...
    def items(self, value: Any, path: str) -> list[Any]: ...
    def whole(self, value: Any, path: str, low: int, high: int, why: str) -> int: ...


def _resources(value: Any, path: str, problems: Problems) -> tuple[tuple[str, int], ...]:
    made = []
    for i, entry in enumerate(problems.items(value, path)):
        raw = problems.mapping(entry, f"{path}[{i}]", ("name", "weight"))
        if not raw.get("name"):
            problems.add(f"{path}[{i}].name: Required value")
        why = f"resource weight of {raw.get('name', '')} not in valid range [1, 100]"
        weight = problems.whole(raw.get("weight", 1), f"{path}[{i}].weight", 1, 100, why)
        made.append((str(raw.get("name", "")), weight))
    return tuple(made)


def _fit(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("ignoredResources", "ignoredResourceGroups", "scoringStrategy", *_TYPE))
    ignored = [str(one) for one in problems.items(raw.get("ignoredResources"), f"{path}.ignoredResources")]
    for one in problems.items(raw.get("ignoredResourceGroups"), f"{path}.ignoredResourceGroups"):
        if "/" in str(one):
            problems.invalid(f"{path}.ignoredResourceGroups", one, "resource group name can't contain '/'")
        ignored.append(f"{one}/")
    settings: Document = {"ignored_resources": tuple(ignored)}
    if "scoringStrategy" in raw:
        settings |= _strategy(raw["scoringStrategy"], f"{path}.scoringStrategy", problems)
    return settings


def _strategy(value: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(value, path, ("type", "resources", "requestedToCapacityRatio"))
    kind = raw.get("type", "LeastAllocated")
    if kind not in STRATEGIES:
        problems.add(f'{path}.type: Unsupported value: "{kind}": supported values: {", ".join(map(repr, STRATEGIES))}')
        return {}
    settings: Document = {"strategy": kind}
    if raw.get("resources"):
        settings["resources"] = _resources(raw["resources"], f"{path}.resources", problems)
    if kind == "RequestedToCapacityRatio":
        ratio = problems.mapping(raw.get("requestedToCapacityRatio"), f"{path}.requestedToCapacityRatio", ("shape",))
        settings |= _shape(ratio.get("shape"), f"{path}.requestedToCapacityRatio.shape", problems)
    elif "requestedToCapacityRatio" in raw:
        problems.add(f"{path}.requestedToCapacityRatio: Forbidden: only for type RequestedToCapacityRatio")
    return settings


def _shape(value: Any, path: str, problems: Problems) -> Document:
    points = []
    for i, entry in enumerate(problems.items(value, path)):
        raw = problems.mapping(entry, f"{path}[{i}]", ("utilization", "score"))
        used = problems.whole(raw.get("utilization"), f"{path}[{i}].utilization", 0, 100, "not in valid range [0, 100]")
        score = problems.whole(raw.get("score"), f"{path}[{i}].score", 0, 10, "not in valid range [0, 10]")
        points.append((used, score))
    if not points:
        problems.add(f"{path}: Required value: at least one point must be specified")
        return {}
    for i, (a, b) in enumerate(pairwise(points)):
        if a[0] >= b[0]:
            why = "utilization values must be sorted in increasing order"
            problems.invalid(f"{path}[{i + 1}].utilization", b[0], why)
    return {"utilization_shape": tuple(points)}


def _balanced(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("resources", *_TYPE))
    resources = _resources(raw.get("resources"), f"{path}.resources", problems)
    for i, (name, weight) in enumerate(resources):
        if weight != 1:
            problems.invalid(f"{path}.resources[{i}].weight", weight, f"resource weight of {name} must be 1")
    return {"balanced": tuple(name for name, _ in resources)} if resources else {}


def _inter_pod(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods", *_TYPE))
    if raw.get("ignorePreferredTermsOfExistingPods"):
        problems.add(f"{path}.ignorePreferredTermsOfExistingPods: Forbidden: they are always counted")
    weight = raw.get("hardPodAffinityWeight", 1)
    where = f"{path}.hardPodAffinityWeight"
    return {"hard_pod_affinity_weight": problems.whole(weight, where, 0, 100, "not in valid range [0, 100]")}


def _node_affinity(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("addedAffinity", *_TYPE))
    added = problems.mapping(raw.get("addedAffinity"), f"{path}.addedAffinity", (_REQUIRED, _PREFERRED))
    if "addedAffinity" in raw and not added:
        problems.add(f"{path}.addedAffinity: Required value: it names no affinity")
    required = problems.mapping(added.get(_REQUIRED), f"{path}.addedAffinity.{_REQUIRED}", ("nodeSelectorTerms",))
    if _REQUIRED in added and not problems.items(required.get("nodeSelectorTerms"), f"{path}.nodeSelectorTerms"):
        where = f"{path}.addedAffinity.{_REQUIRED}.nodeSelectorTerms"
        problems.add(f"{where}: Required value: must have at least one node selector term")
    return {"added_affinity": canonical(added)}


def _spread(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("defaultConstraints", "defaultingType", *_TYPE))
    kind = raw.get("defaultingType", "System")
    values = problems.items(raw.get("defaultConstraints"), f"{path}.defaultConstraints")
    if kind not in ("System", "List"):
        problems.add(f'{path}.defaultingType: Unsupported value: "{kind}": supported values: "System", "List"')
    if kind == "System" and values:
        problems.add(f'{path}.defaultingType: Invalid value: "System": when .defaultConstraints are specified')
    if kind != "List":
        return {}
    where = f"{path}.defaultConstraints"
    return {"default_constraints": tuple(_constraint(one, f"{where}[{i}]", problems) for i, one in enumerate(values))}


def _constraint(value: Any, path: str, problems: Problems) -> DefaultConstraint:
    raw = problems.mapping(value, path, ("maxSkew", "topologyKey", "whenUnsatisfiable", "labelSelector"))
    if "labelSelector" in raw:
        problems.add(
            f"{path}.labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod"
        )
    skew = problems.whole(raw.get("maxSkew"), f"{path}.maxSkew", 1, 1 << 31, "not in valid range (0, inf)")
    if not raw.get("topologyKey"):
        problems.add(f"{path}.topologyKey: Required value: can not be empty")
    when = raw.get("whenUnsatisfiable", "")
    if when not in ("DoNotSchedule", "ScheduleAnyway"):
        known = '"DoNotSchedule", "ScheduleAnyway"'
        problems.add(f'{path}.whenUnsatisfiable: Unsupported value: "{when}": supported values: {known}')
    return DefaultConstraint(str(raw.get("topologyKey", "")), skew, when == "DoNotSchedule")


def _preemption(args: Any, path: str, problems: Problems) -> Document:
    raw = problems.mapping(args, path, ("minCandidateNodesPercentage", "minCandidateNodesAbsolute", *_TYPE))
    share, least = raw.get("minCandidateNodesPercentage", 10), raw.get("minCandidateNodesAbsolute", 100)
    share = problems.whole(share, f"{path}.minCandidateNodesPercentage", 0, 100, "not in valid range [0, 100]")
    least = problems.whole(least, f"{path}.minCandidateNodesAbsolute", 0, 1 << 31, "not in valid range [0, inf)")
    if not share and not least:
        problems.add(f"{path}: cannot set both .minCandidateNodesPercentage and .minCandidateNodesAbsolute to zero")
    return {"candidates": (share, least)}


def _volumes(args: Any, path: str, problems: Problems) -> Document:
    """Nothing here times out: a pod whose volume does not come waits."""
    raw = problems.mapping(args, path, ("bindTimeoutSeconds", "shape", *_TYPE))
    why = "invalid BindTimeoutSeconds, should not be a negative value"
    problems.whole(raw.get("bindTimeoutSeconds", 600), f"{path}.bindTimeoutSeconds", 0, 1 << 31, why)
    return {}


ARGS: dict[str, Callable[[Any, str, Problems], Document]] = {
    "NodeResourcesFit": _fit,
    "NodeResourcesBalancedAllocation": _balanced,
    "InterPodAffinity": _inter_pod,
    "NodeAffinity": _node_affinity,
    "PodTopologySpread": _spread,
    "DefaultPreemption": _preemption,
    "VolumeBinding": _volumes,
}
