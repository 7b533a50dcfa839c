"""MutatingAdmissionPolicy: changes in CEL, applied like server-side apply or as a JSON patch.

IO only through PolicyMatcher. Policies are applied in the order of their names, each mutation on the result of the one
before; a policy with reinvocationPolicy IfNeeded is applied again when a later one has changed the object.

Source: KEP-3962; k8s.io/apiserver pkg/admission/plugin/policy/mutating.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cluster.api import cel, managed, patch, policycel, schema
from cluster.api.errors import ApiError
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
            base = await self._matcher.facts(request, request.info.version)
            if not expressions.conditions_hold(spec.get("matchConditions") or (), base, env):
                return False
            for params in await self._matcher.params(bound, request):
                for mutation in spec.get("mutations") or ():
                    known = (await self._matcher.facts(request, request.info.version)).with_params(params)
                    known.compute(env, spec.get("variables") or ())
                    self._mutate(mutation, known, request)
        except (Misconfigured, expressions.ConditionError, _Failed, cel.CelError) as e:
            if spec.get("failurePolicy") == "Ignore":
                return False
            why = f"MutatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {e}"
            raise request.forbid(why) from e
        return orjson.dumps(request.obj) != before

    def _mutate(self, mutation: Object, known: expressions.Facts, request: Request) -> None:
        kind = mutation.get("patchType")
        part: Object = mutation.get("applyConfiguration" if kind == "ApplyConfiguration" else "jsonPatch") or {}
        expression = str(part.get("expression") or "")
        value = known.evaluate(self._env(), policycel.to_maps(expression))
        current: Object = request.obj or {}
        if kind == "ApplyConfiguration":
            self._renew(request, _applied(request, current, value))
            return
        if not isinstance(value, list) or not all(isinstance(op, dict) for op in value):
            raise _Failed("the expression of a JSONPatch must evaluate to a list of JSONPatch")
        try:
            patched = patch.json_patch(current, [op for op in value if op])
        except ApiError as e:
            raise _Failed(e.message) from e
        if not isinstance(patched, dict):
            raise _Failed("the patched object is no object")
        self._renew(request, patched)

    def _env(self) -> cel.Environment:
        if self._environment is None:
            self._environment = policycel.policy_environment()
        return self._environment


def _applied(request: Request, current: Object, value: Any) -> Object:
    """Merged as server-side apply merges; what identifies the object cannot be applied to it."""
    if not isinstance(value, dict):
        raise _Failed("the expression of an ApplyConfiguration must evaluate to an Object")
    metadata = value.get("metadata") or {}
    for field in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if field in metadata:
            raise _Failed(f"may not mutate metadata.{field}")
    if "kind" in value or "apiVersion" in value:
        raise _Failed("may not mutate apiVersion and kind")
    merged: Object = managed.merge(schema.node_of(request.info), current, value)
    return merged
