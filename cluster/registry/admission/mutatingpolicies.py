"""MutatingAdmissionPolicy: changes in CEL, applied like server-side apply or as a JSON patch.

IO only through PolicyMatcher. A policy sees and changes the object in the version that its rules name. Policies are
applied in the order of their names, each mutation on the result of the one before; a policy with reinvocationPolicy
IfNeeded is applied again when a later one has changed the object.

Source: KEP-3962; k8s.io/apiserver pkg/admission/plugin/policy/mutating.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cluster.api import cel, managed, patch, policycel, schema
from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.registry.admission import expressions
from cluster.registry.admission.policies import GROUP, Bound, Misconfigured, PolicyMatcher
from cluster.registry.admission.request import Request

Object = dict[str, Any]

POLICIES = f"mutatingadmissionpolicies.{GROUP}"
BINDINGS = f"mutatingadmissionpolicybindings.{GROUP}"


class _Failed(Exception):
    """A mutation could not be computed or applied."""


class MutatingPolicies:
    """`renew(request, obj)` makes `obj` the request's, decoded and defaulted anew."""

    def __init__(self, matcher: PolicyMatcher, renew: Callable[[Request, Object], None]) -> None:
        self._matcher = matcher
        self._renew = renew
        self._environment: cel.Environment | None = None

    async def mutate(self, request: Request) -> None:
        if request.obj is None:
            return
        applying = await self._matcher.bound(request, POLICIES, BINDINGS)
        again: set[int] = set()
        for i, bound in enumerate(applying):
            if await self._apply(bound, request):
                again |= set(range(i))
        for i in sorted(again):
            if applying[i].spec.get("reinvocationPolicy") == "IfNeeded":
                await self._apply(applying[i], request)

    async def _apply(self, bound: Bound, request: Request) -> bool:
        """Whether the object is another now."""
        env, spec = self._env(), bound.spec
        before = orjson.dumps(request.obj)
        policy, binding = bound.names
        try:
            base = await self._matcher.facts(request, bound.version)
            if not expressions.conditions_hold(spec.get("matchConditions") or (), base, env):
                return False
            for params in await self._matcher.params(bound, request):
                for mutation in spec.get("mutations") or ():
                    known = (await self._matcher.facts(request, bound.version)).with_params(params)
                    known.compute(env, spec.get("variables") or ())
                    change = self._change(mutation, known)
                    self._renew(request, await self._matcher.changed(request, bound.version, change))
        except (Misconfigured, expressions.ConditionError, _Failed, cel.CelError) as e:
            if spec.get("failurePolicy") == "Ignore":
                return False
            why = f"MutatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {e}"
            raise request.forbid(why) from e
        return orjson.dumps(request.obj) != before

    def _change(self, mutation: Object, known: expressions.Facts) -> Callable[[ResourceInfo, Object], Object]:
        """What the mutation makes of an object of a resource; raises _Failed, as this does."""
        kind = mutation.get("patchType")
        part: Object = mutation.get("applyConfiguration" if kind == "ApplyConfiguration" else "jsonPatch") or {}
        value = known.evaluate(self._env(), policycel.to_maps(str(part.get("expression") or "")))
        made = _applied if kind == "ApplyConfiguration" else _patched
        return lambda info, current: made(info, current, value)

    def _env(self) -> cel.Environment:
        if self._environment is None:
            self._environment = policycel.policy_environment()
        return self._environment


def _patched(_: ResourceInfo, current: Object, value: Any) -> Object:
    if not isinstance(value, list) or not all(isinstance(op, dict) for op in value):
        raise _Failed("the expression of a JSONPatch must evaluate to a list of JSONPatch")
    try:
        patched = patch.json_patch(current, [op for op in value if op])
    except ApiError as e:
        raise _Failed(e.message) from e
    if not isinstance(patched, dict):
        raise _Failed("the patched object is no object")
    return patched


def _applied(info: ResourceInfo, current: Object, value: Any) -> Object:
    """Merged as server-side apply merges; what identifies the object cannot be applied to it."""
    if not isinstance(value, dict):
        raise _Failed("the expression of an ApplyConfiguration must evaluate to an Object")
    metadata = value.get("metadata") or {}
    for field in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if field in metadata:
            raise _Failed(f"may not mutate metadata.{field}")
    if "kind" in value or "apiVersion" in value:
        raise _Failed("may not mutate apiVersion and kind")
    merged: Object = managed.merge(schema.node_of(info), current, value)
    return merged
