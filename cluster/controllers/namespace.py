"""Namespace deletion: removes all content, of every namespaced resource, then lets the namespace go.

Level-based: each pass lists what is left through the client (not the caches: nothing may be missed), deletes what is
not being deleted yet, reports conditions; when nothing is left removes the `kubernetes` finalizer through `finalize`.
Pods go first, so that what they use outlives them; their grace periods are respected. Between passes it waits for
informers to show that something of the namespace has gone, with a slow timer as the safety net.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.api.scheme import ResourceInfo
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found, is_not_found
from cluster.machinery.reconciler import Reconciler, Result

_RECHECK_S = 2.0
_FINALIZER = "kubernetes"
# Only these are cached anyway; the collector keeps caches of the others.
_WATCHED = (
    "pods",
    "persistentvolumeclaims",
    "replicasets.apps",
    "configmaps",
    "services",
    "endpointslices.discovery.k8s.io",
)


@dataclass(slots=True)
class Remaining:
    """What one pass found: objects by resource, finalizers that hold objects, and errors."""

    objects: dict[str, int] = field(default_factory=dict)
    finalizers: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.objects and not self.errors


def conditions_of(remaining: Remaining, now: float, old: list[Obj]) -> list[Obj]:
    """The namespace's conditions, in Kubernetes' words."""
    content = ", ".join(f"{name} has {n} resource instances" for name, n in sorted(remaining.objects.items()))
    holding = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(remaining.finalizers.items()))
    failed = "; ".join(remaining.errors)
    wanted = [
        _condition(
            "NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"
        ),
        _condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        _condition(
            "NamespaceDeletionContentFailure",
            bool(failed),
            "ContentDeletionFailed" if failed else "ContentDeleted",
            f"Failed to delete all resource types: {failed}"
            if failed
            else "All content successfully deleted, may be waiting on finalization",
        ),
        _condition(
            "NamespaceContentRemaining",
            bool(content),
            "SomeResourcesRemain" if content else "ContentRemoved",
            f"Some resources are remaining: {content}" if content else "All content successfully removed",
        ),
        _condition(
            "NamespaceFinalizersRemaining",
            bool(holding),
            "SomeFinalizersRemain" if holding else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {holding}"
            if holding
            else "All content-preserving finalizers finished",
        ),
    ]
    before = {c["type"]: c for c in old}
    for c in wanted:
        prior = before.get(c["type"])
        same = prior is not None and prior.get("status") == c["status"]
        c["lastTransitionTime"] = prior["lastTransitionTime"] if same and prior is not None else rfc3339(now)
    return wanted


def _condition(kind: str, bad: bool, reason: str, message: str) -> Obj:
    return {"type": kind, "status": "True" if bad else "False", "reason": reason, "message": message}


class NamespaceController:
    name = "namespace"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._namespaces = env.informer("namespaces")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_namespace_syncs)
        self._namespaces.add_handler(self._on_namespace)
        for resource in _WATCHED:
            env.informer(resource).add_handler(self._on_content)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for namespace in self._namespaces.items():
            self._on_namespace(None, namespace)

    def _on_namespace(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and "deletionTimestamp" in new["metadata"]:
            self.reconciler.queue.add(new["metadata"]["name"])

    def _on_content(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            namespace = self._namespaces.get("", old["metadata"]["namespace"])
            self._on_namespace(None, namespace)

    async def _reconcile(self, name: str) -> Result | None:
        namespace = self._namespaces.get("", name)
        if namespace is None or "deletionTimestamp" not in namespace["metadata"]:
            return None
        if _FINALIZER not in (namespace["spec"].get("finalizers") or []):
            return None
        remaining = await self._clear(name)
        namespace = await self._report(namespace, remaining)
        if remaining.empty:
            await self._finalize(namespace)
            return None
        return Result(_RECHECK_S)

    async def _clear(self, name: str) -> Remaining:
        remaining = Remaining()
        infos = [i for i in self._env.resources.all() if i.namespaced and "delete" in i.verbs]
        pods = next(i for i in infos if i.name == "pods")
        await self._clear_resource(pods, name, remaining)
        await asyncio.gather(*(self._clear_resource(i, name, remaining) for i in infos if i is not pods))
        return remaining

    async def _clear_resource(self, info: ResourceInfo, namespace: str, remaining: Remaining) -> None:
        try:
            found = (await self._env.client.list(info.name, namespace)).items
            fresh = [o for o in found if "deletionTimestamp" not in o["metadata"]]
            await asyncio.gather(*(self._delete(info.name, o) for o in fresh))
            left = (await self._env.client.list(info.name, namespace)).items if found else []
        except ApiError as err:
            remaining.errors.append(err.message)
            return
        if left:
            remaining.objects[f"{info.plural}.{info.group}"] = len(left)
        for obj in left:
            for finalizer in obj["metadata"].get("finalizers") or []:
                remaining.finalizers[finalizer] = remaining.finalizers.get(finalizer, 0) + 1

    async def _delete(self, resource: str, obj: Obj) -> None:
        meta = obj["metadata"]
        try:
            await self._env.client.delete(
                resource, meta["name"], meta["namespace"], uid=meta["uid"], propagation="Background"
            )
        except ApiError as err:
            if not is_not_found(err) and err.code != 409:
                raise

    async def _report(self, namespace: Obj, remaining: Remaining) -> Obj:
        old = (namespace.get("status") or {}).get("conditions") or []
        conditions = conditions_of(remaining, self._env.clock(), old)
        if conditions == old:
            return namespace
        changed = clone(namespace)
        changed.setdefault("status", {})["conditions"] = conditions
        return await self._env.client.update("namespaces", changed, subresource="status")

    async def _finalize(self, namespace: Obj) -> None:
        changed = clone(namespace)
        changed["spec"]["finalizers"] = [f for f in changed["spec"].get("finalizers") or [] if f != _FINALIZER]
        with ignore_not_found():
            await self._env.client.update("namespaces", changed, subresource="finalize")
