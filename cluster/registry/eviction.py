"""Evicting a pod: a deletion that a PodDisruptionBudget may refuse.

IO only through Reader, Patcher and Deleter. Source: kubernetes pkg/registry/core/pod/storage/eviction.go.

    finished, pending or going already ──────────────────────────────> delete
    not ready, and the budget does not protect such pods ────────────> delete
    else: take one of the budget's disruptionsAllowed ──none left──> 429
              └── compare-and-swap, noted in disruptedPods ──────────> mark DisruptionTarget, delete

Invariant: of racing evictions no more pass than the budget allows: each takes its disruption by a write that is guarded
by the budget's revision, before the pod is deleted. A deletion that fails afterwards gives its disruption back when the
disruption controller finds the pod alive after two minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.api import errors, meta, pods
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry.context import RequestContext
from cluster.registry.core import Core
from cluster.registry.deletion import Deleter
from cluster.registry.patching import Patcher, covers
from cluster.registry.reading import Filter, Reader
from cluster.registry.types import DeleteOptions, Stored

Object = dict[str, Any]

_BUDGETS = SCHEME.named("poddisruptionbudgets.policy")
_ATTEMPTS = 5
_MAX_DISRUPTED = 2000
_RETRY_AFTER_S = 10
_WHY = "Cannot evict pod as it would violate the pod's disruption budget."


class Evictor:
    def __init__(self, core: Core, reader: Reader, patcher: Patcher, deleter: Deleter) -> None:
        self._core = core
        self._reader = reader
        self._patcher = patcher
        self._deleter = deleter

    async def evict(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, options: DeleteOptions
    ) -> Stored:
        """The pod as it now is, or as it last was. Raises 429 when the budget has no disruption left."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(ctx, info, namespace, name, options)
            except ApiError as err:
                if err.reason != "Conflict" or options.uid or options.resource_version or attempt == _ATTEMPTS - 1:
                    raise
        raise errors.conflict(info, name)

    async def _once(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, options: DeleteOptions
    ) -> Stored:
        pod = await self._reader.get(info, namespace, name)
        _preconditions(info, name, pod, options)
        machine = ctx.user.node_name
        if machine and pod.obj["spec"].get("nodeName") != machine:  # before it uses up a disruption of the budget
            why = f'node "{machine}" can only evict pods with spec.nodeName set to itself'
            raise errors.forbidden(info, name, why)
        budget = await self._budget(namespace, pod.obj) if _protected(pod.obj) else None
        if budget is None:
            return await self._deleter.delete(ctx, info, namespace, name, options)
        if not await self._take(ctx, namespace, budget, pod.obj):
            # Judged as not ready: it goes only as it was judged.
            judged = replace(options, uid=pod.uid, resource_version=str(pod.revision))
            return await self._deleter.delete(ctx, info, namespace, name, judged)
        await self._mark(ctx, info, namespace, name, pod.uid)
        return await self._deleter.delete(
            ctx, info, namespace, name, replace(options, uid=pod.uid, resource_version="")
        )

    async def _budget(self, namespace: str, pod: Object) -> Stored | None:
        present = await self._reader.list(_BUDGETS, namespace, Filter(None, None), 0, "", "", "")
        found = [b for b in present.items if covers(b.obj, pod)]
        if len(found) > 1:
            raise ApiError(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )
        return found[0] if found else None

    async def _take(self, ctx: RequestContext, namespace: str, budget: Stored, pod: Object) -> bool:
        """True when a disruption was taken; False when the pod needs none."""
        now = self._core.clock()
        name = pod["metadata"]["name"]
        taken = False

        def take(current: Object) -> Object | None:
            nonlocal taken
            taken = False
            if not pods.is_ready(pod) and _unready_may_go(current):
                return None
            _refuse(current)
            status = current["status"]
            status["disruptionsAllowed"] -= 1
            if status["disruptionsAllowed"] == 0:
                condition = {"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods"}
                condition |= {"message": "", "observedGeneration": status.get("observedGeneration", 0)}
                meta.set_condition(status.setdefault("conditions", []), condition, now)
            status.setdefault("disruptedPods", {})[name] = meta.rfc3339(now)
            taken = True
            return current

        budget_name = budget.obj["metadata"]["name"]
        try:
            await self._patcher.modify(ctx, _BUDGETS, namespace, budget_name, take, "status")
        except ApiError as err:
            if err.reason == "NotFound":
                return False  # the budget is gone, and with it its protection
            raise
        return taken

    async def _mark(self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, uid: str) -> None:
        """Say on the pod why it ends."""
        now = self._core.clock()

        def mark(current: Object) -> Object | None:
            if current["metadata"]["uid"] != uid:
                return None
            condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            condition["message"] = "Eviction API: evicting"
            meta.set_condition(current.setdefault("status", {}).setdefault("conditions", []), condition, now)
            return current

        await self._patcher.modify(ctx, info, namespace, name, mark, "status")


def _protected(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase", "Pending")
    return phase not in ("Succeeded", "Failed", "Pending") and "deletionTimestamp" not in pod["metadata"]


def _preconditions(info: ResourceInfo, name: str, pod: Stored, options: DeleteOptions) -> None:
    """Before a disruption is taken for a pod that is not the one meant."""
    if options.uid and options.uid != pod.uid:
        why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {pod.uid}"
        raise errors.conflict(info, name, why)
    if options.resource_version and options.resource_version != str(pod.revision):
        why = "Precondition failed: ResourceVersion in precondition: "
        why += f"{options.resource_version}, ResourceVersion in object meta: {pod.revision}"
        raise errors.conflict(info, name, why)


def _unready_may_go(budget: Object) -> bool:
    """A pod that is not ready serves nobody: it may go when the budget says so, or when the others are enough."""
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    healthy, wanted = int(status.get("currentHealthy") or 0), int(status.get("desiredHealthy") or 0)
    return healthy >= wanted > 0


def _refuse(budget: Object) -> None:
    """Raises when the budget does not allow a disruption now."""
    status, metadata = budget.get("status") or {}, budget["metadata"]
    name = metadata["name"]
    if int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0):
        raise _too_many(f"The disruption budget {name} is still being processed by the server.", _RETRY_AFTER_S)
    allowed = int(status.get("disruptionsAllowed") or 0)
    if allowed < 0:
        raise errors.forbidden(_BUDGETS, name, "pdb disruptions allowed is negative")
    if len(status.get("disruptedPods") or {}) > _MAX_DISRUPTED:
        why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise errors.forbidden(_BUDGETS, name, why)
    if allowed == 0:
        wanted, healthy = int(status.get("desiredHealthy") or 0), int(status.get("currentHealthy") or 0)
        raise _too_many(f"The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently")


def _too_many(message: str, retry_after_s: int = 0) -> ApiError:
    """Without a time to retry after when the budget is exhausted: clients would sleep on it and say nothing."""
    err = errors.too_many_requests(_WHY, retry_after_s)
    err.details = {"causes": [{"reason": "DisruptionBudget", "message": message}]}
    if retry_after_s:
        err.details["retryAfterSeconds"] = retry_after_s
    return err
