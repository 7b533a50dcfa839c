"""In which order a machine that shuts down ends its pods, and how long each group of them gets.

Pure. Source: Kubernetes' graceful node shutdown (KEP-2000) and its form by pod priority (KEP-2712). Groups end one
after the other, the lowest priority first; a pod belongs to the group with the highest priority that is not above its
own, one below all of them to the lowest. Without groups of its own a node has two: ordinary pods, then critical ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.node.eviction_rank import SYSTEM_CRITICAL_PRIORITY

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
NOT_READY = "node is shutting down"
REJECTED = ("NodeShutdown", "Pod was rejected as the node is shutting down.")


@dataclass(frozen=True, slots=True)
class Group:
    grace_s: float
    uids: tuple[str, ...]


def periods(
    total_s: float, critical_s: float, by_priority: Sequence[tuple[int, float]]
) -> tuple[tuple[int, float], ...]:
    """(priority, seconds), the lowest first; empty when nothing asks for a graceful shutdown."""
    if by_priority:
        return tuple(sorted(by_priority))
    if total_s <= 0:
        return ()
    return ((0, max(total_s - critical_s, 0.0)), (SYSTEM_CRITICAL_PRIORITY, min(critical_s, total_s)))


def groups(pods: Sequence[tuple[str, int]], limits: Sequence[tuple[int, float]]) -> list[Group]:
    """`pods`: (uid, priority). Groups without pods are left out."""
    out = []
    for index, (_, seconds) in enumerate(limits):
        members = tuple(uid for uid, priority in pods if _group_of(priority, limits) == index)
        if members:
            out.append(Group(seconds, members))
    return out


def _group_of(priority: int, limits: Sequence[tuple[int, float]]) -> int:
    return max((i for i, (floor, _) in enumerate(limits) if floor <= priority), default=0)
