"""The scheduler's settings, under kube-scheduler's names. Pure.

A profile is what one schedulerName means: which score plugins count how much, which filters are off, how full nodes
are valued. `DEFAULT` is kube-scheduler's default profile, `REFERENCE` the three equal functions of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

FILTERS = (
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "VolumeBinding",
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
STRATEGIES = ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio")


@dataclass(frozen=True, slots=True)
class Profile:
    """`resources`: (name, weight) that NodeResourcesFit scores; `utilization_shape`: (utilization %, score 0 to 10)
    points of RequestedToCapacityRatio."""

    scheduler_name: str = "default-scheduler"
    weights: tuple[tuple[str, int], ...] = DEFAULT_WEIGHTS
    disabled_filters: frozenset[str] = frozenset()
    strategy: str = "LeastAllocated"
    resources: tuple[tuple[str, int], ...] = (("cpu", 1), ("memory", 1))
    utilization_shape: tuple[tuple[int, int], ...] = ((0, 0), (100, 10))
    preemption: bool = True

    def validate(self) -> None:
        """Raises ValueError that says what is wrong and what would be right."""
        if not self.scheduler_name:
            raise ValueError("scheduler_name is empty: pods name their scheduler, the usual name is default-scheduler")
        for name, weight in self.weights:
            if name not in SCORES:
                raise ValueError(f"weights name the unknown score plugin {name!r}: known are {', '.join(SCORES)}")
            if not 0 <= weight <= 100:
                raise ValueError(f"the weight of {name} is {weight}: use 1 to 100, or 0 to turn it off")
        for name in sorted(self.disabled_filters):
            if name not in FILTERS:
                raise ValueError(f"disabled_filters name the unknown plugin {name!r}: known are {', '.join(FILTERS)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}: use one of {', '.join(STRATEGIES)}")
        if not self.resources or any(not 1 <= weight <= 100 for _, weight in self.resources):
            raise ValueError(f"resources are {self.resources!r}: name at least one, with weights of 1 to 100")
        self._validate_shape()

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

    `scheduler_name` names the component in events; `profiles` say which pods it serves.
    """

    scheduler_name: str = "default-scheduler"
    identity: str = "scheduler"
    lease_ttl_s: int = 3
    batch: int = 512
    parallel_binds: int = 4
    profiles: tuple[Profile, ...] = field(default=(DEFAULT, REFERENCE))

    def validate(self) -> None:
        """Raises ValueError that says what is wrong and what would be right."""
        if not self.scheduler_name:
            raise ValueError("scheduler_name is empty: pods name their scheduler, the usual name is default-scheduler")
        if self.batch < 1 or self.parallel_binds < 1:
            raise ValueError(f"batch ({self.batch}) and parallel_binds ({self.parallel_binds}) must be 1 or more")
        if self.lease_ttl_s < 2:
            raise ValueError(f"lease_ttl_s is {self.lease_ttl_s}: use 2 s or more, it is renewed every third of it")
        if not self.profiles:
            raise ValueError("profiles is empty: name at least one, Profile() is kube-scheduler's default")
        names = [profile.scheduler_name for profile in self.profiles]
        if len(set(names)) != len(names):
            raise ValueError(f"two profiles have one scheduler_name: {', '.join(sorted(names))}")
        for profile in self.profiles:
            profile.validate()
