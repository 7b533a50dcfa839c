"""Priority and DefaultTolerationSeconds for pods.

IO only through Reads. Sources: plugin/pkg/admission/priority, defaulttolerationseconds of k8s.io/kubernetes.
"""

from __future__ import annotations

from typing import Any

from cluster.registry.admission.request import Reads, Request
from cluster.registry.types import RegistryConfig

Object = dict[str, Any]

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"


def tolerations(request: Request, config: RegistryConfig) -> None:
    """A pod that says nothing about a lost node leaves it after five minutes."""
    spec = (request.obj or {}).get("spec") or {}
    present = spec.get("tolerations") or []
    for key, seconds in (
        (NOT_READY, config.default_not_ready_toleration_s),
        (UNREACHABLE, config.default_unreachable_toleration_s),
    ):
        if not any(t.get("key", "") in (key, "") and t.get("effect", "") in ("NoExecute", "") for t in present):
            added = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
            present = [*present, added]
    spec["tolerations"] = present


async def priority(request: Request, reads: Reads, now: float) -> None:
    spec = (request.obj or {})["spec"]
    if request.old is not None:
        for kept in ("priority", "preemptionPolicy"):  # computed at creation: a manifest that is put again lacks them
            if kept not in spec and kept in request.old["spec"]:
                spec[kept] = request.old["spec"][kept]
        return
    name = spec.get("priorityClassName", "")
    if name:
        found = await reads.guarded(request.plan, "priorityclasses.scheduling.k8s.io", "", name)
        if found is None:
            raise request.forbid(f"no PriorityClass with name {name} was found")
        chosen: Object | None = found.obj
    else:
        classes = [s.obj for s in await reads.recent("priorityclasses.scheduling.k8s.io")]
        defaults = [c for c in classes if c.get("globalDefault")]
        chosen = min(defaults, key=lambda c: c.get("value", 0)) if defaults else None
    value = chosen.get("value", 0) if chosen else 0
    policy = (chosen or {}).get("preemptionPolicy", "PreemptLowerPriority")
    if chosen is not None:
        spec["priorityClassName"] = chosen["metadata"]["name"]
    if spec.get("priority") not in (None, value):
        raise request.forbid(
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; priority admission "
            f"controller computed {value} from the given PriorityClass name"
        )
    if spec.get("preemptionPolicy") not in (None, policy):
        raise request.forbid(
            f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; "
            f"priority admission controller computed {policy} from the given PriorityClass name"
        )
    spec["priority"], spec["preemptionPolicy"] = value, policy


async def one_default_priority(request: Request, reads: Reads) -> None:
    """At most one PriorityClass is for pods that name none."""
    if not (request.obj or {}).get("globalDefault") or (request.old or {}).get("globalDefault"):
        return
    for other in await reads.fresh("priorityclasses.scheduling.k8s.io"):
        name = other.obj["metadata"]["name"]
        if other.obj.get("globalDefault") and name != request.name:
            raise request.forbid(f"PriorityClass {name} is already marked as default. Only one default can exist")
