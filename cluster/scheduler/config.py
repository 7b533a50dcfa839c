"""The scheduler's settings, under kube-scheduler's names. Pure.

A profile is what one schedulerName means: which score plugins count how much, which filters are off, how full nodes
are valued. `DEFAULT` is kube-scheduler's default profile, `REFERENCE` the three equal functions of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.scheduler.plugin import Plugin

FILTERS = (
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
)
"""In the order in which a node is charged to the first that refuses it."""

DEFAULT_WEIGHTS: tuple[tuple[str, int], ...] = (
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
)
REFERENCE_SCORES = ("LeastRequestedPriority", "BalancedResourceAllocation", "SelectorSpreadPriority")
SCORES = (*(name for name, _ in DEFAULT_WEIGHTS), *REFERENCE_SCORES)
RESOURCES = (("cpu", 1), ("memory", 1))
LEASE_S = 2
"""So long a dead leader is waited for; it is renewed every third of it."""
STRATEGIES = ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio")


@dataclass(frozen=True, slots=True)
class DefaultConstraint:
    """A topology spread constraint of pods that have none of their own; `hard`: DoNotSchedule."""

    topology_key: str
    max_skew: int
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """What one schedulerName means.

    `resources`: (name, weight) that NodeResourcesFit scores; `utilization_shape`: (utilization %, score 0 to 10) points
    of RequestedToCapacityRatio; `balanced`: resources of NodeResourcesBalancedAllocation; `ignored_resources`: not
    looked at by NodeResourcesFit (a name, or a prefix that ends in /); `default_constraints`: None are the system's;
    `added_affinity`: a NodeAffinity (JSON) that every pod has besides its own; `percentage_to_score`: None looks at all
    nodes, 0 at as many as kube-scheduler would; `candidates`: (percentage, least) of nodes preemption looks at.
    """

    scheduler_name: str = "default-scheduler"
    weights: tuple[tuple[str, int], ...] = DEFAULT_WEIGHTS
    disabled_filters: frozenset[str] = frozenset()
    strategy: str = "LeastAllocated"
    resources: tuple[tuple[str, int], ...] = RESOURCES
    utilization_shape: tuple[tuple[int, int], ...] = ((0, 0), (100, 10))
    balanced: tuple[str, ...] = ("cpu", "memory")
    ignored_resources: tuple[str, ...] = ()
    default_constraints: tuple[DefaultConstraint, ...] | None = None
    added_affinity: bytes = b""
    percentage_to_score: int | None = None
    preemption: bool = True
    candidates: tuple[int, int] = (10, 100)
    plugins: tuple[Plugin, ...] = ()

    def validate(self) -> None:
        """Raises ValueError that says what is wrong and what would be right."""
        if not self.scheduler_name:
            raise ValueError("scheduler_name is empty: pods name their scheduler, the usual name is default-scheduler")
        scores = (*SCORES, *(plugin.name for plugin in self.plugins))
        for name, weight in self.weights:
            if name not in scores:
                raise ValueError(f"weights name the unknown score plugin {name!r}: known are {', '.join(scores)}")
            if not 0 <= weight <= 100:
                raise ValueError(f"the weight of {name} is {weight}: use 1 to 100, or 0 to turn it off")
        for name in sorted(self.disabled_filters):
            if name not in FILTERS:
                raise ValueError(f"disabled_filters name the unknown plugin {name!r}: known are {', '.join(FILTERS)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}: use one of {', '.join(STRATEGIES)}")
        if not self.resources or any(not 1 <= weight <= 100 for _, weight in self.resources):
            raise ValueError(f"resources are {self.resources!r}: name at least one, with weights of 1 to 100")
        if self.percentage_to_score is not None and not 0 <= self.percentage_to_score <= 100:
            raise ValueError(f"percentage_to_score is {self.percentage_to_score}: use 0 to 100, or None for all nodes")
        self._validate_shape()

    def ignores(self, resource: str) -> bool:
        """Whether NodeResourcesFit does not look at it."""
        return any(
            resource == one or (one.endswith("/") and resource.startswith(one)) for one in self.ignored_resources
        )

    @property
    def static(self) -> bool:
        """Whether no plugin of one's own looks at what is placed."""
        return all(plugin.static for plugin in self.plugins)

    def _validate_shape(self) -> None:
        points = self.utilization_shape
        if not points or any(not (0 <= u <= 100 and 0 <= s <= 10) for u, s in points):
            raise ValueError(f"utilization_shape is {points!r}: points of utilization 0 to 100 and score 0 to 10")
        if any(a[0] >= b[0] for a, b in pairwise(points)):
            raise ValueError(f"utilization_shape is {points!r}: utilization must grow from point to point")


DEFAULT = Profile()
REFERENCE = Profile(
    scheduler_name="reference",
    weights=tuple((name, 1) for name in REFERENCE_SCORES),
    resources=(("cpu", 1),),
)
"""Section 4A of the reference: equal weights, least requested by CPU alone."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """`batch` pods are decided per step; up to `parallel_binds` bind transactions are under way at once.

    `scheduler_name` names the component in events; `profiles` say which pods it serves. `qps` and `burst` bound writes
    per second (0: not at all); back-offs are those of a pod that failed, doubling from the first to the last.
    """

    scheduler_name: str = "default-scheduler"
    identity: str = "scheduler"
    lease_ttl_s: int = LEASE_S
    batch: int = 512
    parallel_binds: int = 4
    initial_backoff_s: float = 1.0
    max_backoff_s: float = 10.0
    qps: float = 0.0
    burst: int = 0
    hard_pod_affinity_weight: int = 1
    profiles: tuple[Profile, ...] = field(default=(DEFAULT, REFERENCE))

    def validate(self) -> None:
        """Raises ValueError that says what is wrong and what would be right."""
        if not self.scheduler_name:
            raise ValueError("scheduler_name is empty: pods name their scheduler, the usual name is default-scheduler")
        if self.batch < 1 or self.parallel_binds < 1:
            raise ValueError(f"batch ({self.batch}) and parallel_binds ({self.parallel_binds}) must be 1 or more")
        if self.lease_ttl_s < 2:
            raise ValueError(f"lease_ttl_s is {self.lease_ttl_s}: use 2 s or more, it is renewed every third of it")
        if not 0 < self.initial_backoff_s <= self.max_backoff_s:
            text = f"{self.initial_backoff_s:g} s and {self.max_backoff_s:g} s"
            raise ValueError(f"initial_backoff_s and max_backoff_s are {text}: use more than 0, and not less later")
        if self.qps < 0 or self.burst < 0 or (self.qps > 0) != (self.burst > 0):
            raise ValueError(f"qps ({self.qps:g}) and burst ({self.burst}): give both above 0, or neither")
        if not 0 <= self.hard_pod_affinity_weight <= 100:
            raise ValueError(f"hard_pod_affinity_weight is {self.hard_pod_affinity_weight}: use 0 to 100")
        if not self.profiles:
            raise ValueError("profiles is empty: name at least one, Profile() is kube-scheduler's default")
        names = [profile.scheduler_name for profile in self.profiles]
        if len(set(names)) != len(names):
            raise ValueError(f"two profiles have one scheduler_name: {', '.join(sorted(names))}")
        for profile in self.profiles:
            profile.validate()
