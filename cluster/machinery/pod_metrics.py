"""What pods use, for those who decide by it (the autoscaler): a Protocol.

Pure declarations. In Kubernetes this is the resource metrics API; `kubelet_metrics.py` reads the kubelets' summaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class PodUsage:
    """One pod: `usage` per container and resource ("cpu" in millicores, "memory" in bytes), averaged over `window_s`
    before `at` (seconds since the epoch)."""

    at: float
    window_s: float
    usage: Mapping[str, Mapping[str, int]]

    def total(self, resource: str) -> int | None:
        """Of all containers; None when one of them has no sample."""
        values = [container.get(resource) for container in self.usage.values()]
        known = [v for v in values if v is not None]
        return sum(known) if known and len(known) == len(values) else None


class PodMetrics(Protocol):
    async def of_pods(self, namespace: str, pods: Sequence[dict[str, Any]]) -> Mapping[str, PodUsage]:
        """By pod name, of pods of one namespace; those without samples are left out (others may be among them). Raises
        ApiError when nothing is known."""
        ...
