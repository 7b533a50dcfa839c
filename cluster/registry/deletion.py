"""Deletion: preconditions, grace, finalizers, propagation.

IO only through Core. An object is removed at once, or marked (deletionTimestamp) and left to those it must wait for:
the kubelet of a pod (grace period), its finalizers, the garbage collector (foregroundDeletion, orphan), the namespace
controller (spec.finalizers). The removal is one transaction guarded by the revision that was judged.

    delete ── nothing to wait for ──────────────────────────────> removed
       └── mark: deletionTimestamp, finalizers ── last waiter done ──> removed (by an update or a delete with grace 0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.api import errors, meta, pods
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.admission import Admission, Request
from cluster.registry.codec import splice
from cluster.registry.context import RequestContext
from cluster.registry.core import Core, Guard, Plan, Stale
from cluster.registry.quota_book import Charge
from cluster.registry.store import delete, put, unchanged
from cluster.registry.strategies import Strategy, strategy_for
from cluster.registry.types import DeleteOptions, Stored
from cluster.registry.writing import Writer

Object = dict[str, Any]

_ATTEMPTS = 8
_LONGEST_GRACE_S = (2**63 - 1) // 10**9
"""What Go's time.Duration holds, 292 years: Kubernetes bounds the field not at all, and adds what is left of it."""
_PRIORITY_CLASSES = SCHEME.named("priorityclasses.scheduling.k8s.io")
_SYSTEM_CLASSES = ("system-node-critical", "system-cluster-critical")
_PROPAGATION = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}
_JOBS = SCHEME.named("jobs.batch")
_PODS_STAY = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them "
    "or set propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an object goes: its transaction, what its quotas get back, and what is answered of the revision written."""

    plan: Plan
    charge: Charge | None
    answer: Callable[[int], Stored]


class Deleter:
    def __init__(self, core: Core, writer: Writer, admission: Admission) -> None:
        self._core = core
        self._writer = writer
        self._admission = admission

    async def delete(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, options: DeleteOptions
    ) -> Stored:
        """The object as it now is, or as it last was, with `removed` set."""
        self.check(ctx, info, name, options)
        key = keys.object_key(info, namespace, name)
        for _ in range(_ATTEMPTS):
            current = await self._core.read(key, deadline=ctx.deadline)
            if current is None:
                raise errors.not_found(info, name)
            try:
                ending = await self.ending(ctx, info, current, options)
                if ending is None:
                    return current
                return ending.answer(await self._writer.finish(ctx, ending.plan, ending.charge))
            except Stale:
                continue
        raise errors.conflict(info, name)

    @staticmethod
    def check(ctx: RequestContext, info: ResourceInfo, name: str, options: DeleteOptions) -> None:
        """What is wrong with the request, whatever is stored; and what is to be said of it."""
        if options.propagation not in ("", "Background", *_PROPAGATION):
            supported = '"Background", "Foreground", "Orphan"'
            cause = errors.Cause(
                "FieldValueNotSupported",
                f'Unsupported value: "{options.propagation}": supported values: {supported}',
                "propagationPolicy",
            )
            raise errors.invalid("DeleteOptions", "meta.k8s.io", "", [cause])
        if info is _PRIORITY_CLASSES and name in _SYSTEM_CLASSES:
            raise errors.forbidden(info, name, "this is a system priority class and cannot be deleted")
        if info is _JOBS and not options.propagation and _PODS_STAY not in ctx.warnings:
            ctx.warnings.append(_PODS_STAY)

    async def ending(
        self, ctx: RequestContext, info: ResourceInfo, current: Stored, options: DeleteOptions
    ) -> Ending | None:
        """None: it is marked for it already."""
        strategy, plan = strategy_for(info), Plan()
        metadata = current.obj["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        self._preconditions(info, name, current, options)
        request = Request(ctx, info, "DELETE", namespace, name, None, current.obj, plan)
        await self._admission.mutate(request)
        await self._admission.validate(request)
        marked = self._mark(info, current, options, strategy)
        plan.guards.append(Guard(unchanged(current.key, current.revision)))
        if marked is None:
            plan.ops.append(delete(current.key))
            return Ending(plan, await self._writer.release(ctx, info, current.obj, plan), _removed(current))
        return None if marked == current.obj else self._put(ctx, info, current, marked, plan)

    def _put(self, ctx: RequestContext, info: ResourceInfo, current: Stored, obj: Object, plan: Plan) -> Ending:
        if info.name == "namespaces":
            obj.setdefault("status", {})["phase"] = "Terminating"
            plan.ops.append(put(keys.namespace_phase(obj["metadata"]["name"]), keys.TERMINATING))
        encrypt = self._core.encrypts(info)
        value, body, offset = self._core.codec.encode(current.key, obj, encrypt=encrypt, cause=ctx.cause_id)
        plan.ops.append(put(current.key, value))

        def answer(revision: int) -> Stored:
            return Stored(current.key, splice(body, offset, revision), revision, current.uid)

        return Ending(plan, None, answer)

    def _preconditions(self, info: ResourceInfo, name: str, current: Stored, options: DeleteOptions) -> None:
        kind = f"{info.kind}.{info.group}" if info.group else info.kind
        if options.uid and options.uid != current.uid:
            why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({current.uid}). "
            raise errors.conflict(kind, name, why + "The object might have been deleted and then recreated")
        if options.resource_version and options.resource_version != str(current.revision):
            why = f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
            why += f"ResourceVersion in record ({current.revision}). The object might have been modified"
            raise errors.conflict(kind, name, why)

    def _mark(self, info: ResourceInfo, current: Stored, options: DeleteOptions, strategy: Strategy) -> Object | None:
        """The object marked for deletion, or None when it can go at once."""
        obj, now = current.fresh(), self._core.clock()
        metadata = obj["metadata"]
        if "deletionTimestamp" not in metadata:
            strategy.on_delete(obj, now)
        finalizers = self._finalizers(metadata.get("finalizers") or [], options.propagation, strategy.orphans)
        grace = self._grace(obj, options, strategy)
        held = not strategy.custom and (obj.get("spec") or {}).get("finalizers")
        waits = bool(finalizers or grace or held)
        if not waits:
            return None
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = meta.rfc3339(now + grace)
            metadata["deletionGracePeriodSeconds"] = grace
            if strategy.generation:
                metadata["generation"] = metadata.get("generation", 0) + 1
        elif grace < (metadata.get("deletionGracePeriodSeconds") or 0):
            was = meta.parse_time(metadata["deletionTimestamp"]) - metadata["deletionGracePeriodSeconds"]
            metadata["deletionTimestamp"] = meta.rfc3339(max(was + grace, now) if grace else now)
            metadata["deletionGracePeriodSeconds"] = grace
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        return obj

    @staticmethod
    def _finalizers(present: list[str], propagation: str, orphans: bool) -> list[str]:
        """A finalizer that somebody set already says more than the kind's default (`orphans`)."""
        kept = [f for f in present if f not in _PROPAGATION.values()]
        if not propagation:
            return [*present, _PROPAGATION["Orphan"]] if orphans and kept == present else present
        return [*kept, _PROPAGATION[propagation]] if propagation in _PROPAGATION else kept

    @staticmethod
    def _grace(obj: Object, options: DeleteOptions, strategy: Strategy) -> int:
        """Seconds the kubelet still has; 0 when nobody has to be waited for."""
        if not strategy.graceful:
            return 0
        spec = obj["spec"]
        if not spec.get("nodeName") or pods.is_terminal(obj):
            return 0
        grace = options.grace_period_s
        if grace is None:
            already = obj["metadata"].get("deletionGracePeriodSeconds")
            grace = already if already is not None else spec.get("terminationGracePeriodSeconds", 30)
        grace = 1 if grace < 0 else grace
        already = obj["metadata"].get("deletionGracePeriodSeconds")
        return int(min(grace, _LONGEST_GRACE_S if already is None else already))


def _removed(current: Stored) -> Callable[[int], Stored]:
    def answer(revision: int) -> Stored:
        gone = current.fresh()
        gone["metadata"]["resourceVersion"] = str(revision)
        return Stored.of(current.key, gone, revision, current.uid, removed=True)

    return answer
