"""ValidatingAdmissionPolicy: rules in CEL that decide whether a request may go on.

IO only through Core and PolicyView (parameters, namespaces). A policy does nothing without a binding; a binding may
narrow what the policy matches, and brings the parameters. Each pair is judged by itself: violations deny, warn or are
noted for the audit, as the binding's validationActions say; what cannot be evaluated denies unless failurePolicy is
Ignore.

Source: KEP-3488; k8s.io/apiserver pkg/admission/plugin/policy/validating.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api import cel, policycel, selectors
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.admission import expressions, matching, review
from cluster.registry.admission.equivalence import Equivalents
from cluster.registry.admission.expressions import Facts
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView
from cluster.registry.core import Core
from cluster.registry.store import prefix_end

Object = dict[str, Any]
# (group, version, kind) of parameters -> the resource, or None
FindKind = Callable[[str, str, str], Awaitable[ResourceInfo | None]]

GROUP = "admissionregistration.k8s.io"
POLICIES = f"validatingadmissionpolicies.{GROUP}"
BINDINGS = f"validatingadmissionpolicybindings.{GROUP}"
_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
_FAILURES = "validation.policy.admission.k8s.io/validation_failure"
_MAX_MESSAGE = 5 * 1024


class Misconfigured(Exception):
    """Policy or binding cannot be applied; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`version`: of the resource, in which the policy wants to see the object."""

    policy: Object
    binding: Object
    version: str

    @property
    def names(self) -> tuple[str, str]:
        return self.policy["metadata"]["name"], self.binding["metadata"]["name"]

    @property
    def spec(self) -> Object:
        spec: Object = self.policy.get("spec") or {}
        return spec


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation, or a failure to evaluate; `index` of the validation, -1 for failures of the whole."""

    message: str
    reason: str = "Invalid"
    index: int = -1


class PolicyMatcher:
    """What validating and mutating policies have in common: which apply, with which parameters."""

    def __init__(self, core: Core, view: PolicyView, equivalents: Equivalents) -> None:
        self._core = core
        self._view = view
        self._equivalents = equivalents
        self.find_kind: FindKind = builtin_kind

    async def bound(self, request: Request, policies: str, bindings: str) -> list[Bound]:
        if await self._view.empty(policies) or matching.exempt(request):
            return []
        by_policy: dict[str, list[Object]] = {}
        for stored in await self._view.all(bindings):
            by_policy.setdefault(str((stored.obj.get("spec") or {}).get("policyName")), []).append(stored.obj)
        out = []
        for stored in await self._view.all(policies):
            pairs = by_policy.get(stored.obj["metadata"]["name"])
            constraints = (stored.obj.get("spec") or {}).get("matchConstraints")
            if not pairs or constraints is None or not await self._within(constraints, request):
                continue
            version = _version(constraints, request)
            for binding in pairs:
                narrowed = (binding.get("spec") or {}).get("matchResources")
                if narrowed is None or await self._within(narrowed, request, narrowing=True):
                    out.append(Bound(stored.obj, binding, version))
        return out

    async def _within(self, resources: Object, request: Request, *, narrowing: bool = False) -> bool:
        if not _version(resources, request) and not (narrowing and not resources.get("resourceRules")):
            return False
        if _version(resources, request, "excludeResourceRules"):
            return False
        if not matching.object_matches(resources.get("objectSelector"), request):
            return False
        return await matching.namespace_matches(resources.get("namespaceSelector"), request, self._view)

    async def facts(self, request: Request, version: str) -> Facts:
        """Of the request, with its objects in this version."""
        namespace = await self._view.one("namespaces", "", request.namespace) if request.namespace else None
        asked = review.admission_request(request, "", version)
        seen = await self._equivalents.seen(request, version)
        return expressions.facts(seen, asked, namespace.obj if namespace else None, self._core.authorizer)

    async def changed(self, request: Request, version: str, change: Callable[[ResourceInfo, Object], Object]) -> Object:
        """What `change` makes of the object in this version, in the version of the request."""
        seen = await self._equivalents.seen(request, version)
        info = await self._equivalents.shown(request, version)
        return await self._equivalents.own(request, version, change(info, seen.obj or {}))

    async def params(self, bound: Bound, request: Request) -> list[Object | None]:
        """[None] for a policy without parameters; raises Misconfigured."""
        kind, ref = bound.spec.get("paramKind"), (bound.binding.get("spec") or {}).get("paramRef")
        if kind is None:
            return [None]
        group, _, version = str(kind.get("apiVersion") or "").rpartition("/")
        info = await self.find_kind(group, version, str(kind.get("kind") or ""))
        if info is None:
            raise Misconfigured(
                "failed to configure policy: failed to find resource referenced by paramKind: "
                f"'{kind.get('apiVersion')}, Kind={kind.get('kind')}'"
            )
        if ref is None:
            return [None]
        found = await self._read_params(info, ref, request)
        if not found and ref.get("parameterNotFoundAction") != "Allow":
            raise Misconfigured(
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
            )
        return list(found)

    async def _read_params(self, info: ResourceInfo, ref: Object, request: Request) -> list[Object]:
        namespace = ""
        if info.namespaced:
            namespace = ref.get("namespace") or request.namespace
            if not namespace:
                raise Misconfigured(
                    "failed to configure binding: cannot use namespaced paramRef in policy binding that matches "
                    "cluster-scoped resources"
                )
        elif ref.get("namespace"):
            raise Misconfigured("failed to configure binding: paramRef.namespace must not be provided for a "
                                "cluster-scoped `paramKind`")  # fmt: skip
        if ref.get("name"):
            stored = await self._core.read(keys.object_key(info, namespace, ref["name"]))
            return [stored.obj] if stored is not None else []
        selector = selectors.from_label_selector(ref.get("selector"))
        prefix = keys.namespace_prefix(info, namespace)
        found = await self._core.range(prefix, prefix_end(prefix))
        objects = (self._core.codec.decode(kv.key, kv.value, kv.mod_revision).obj for kv in found.kvs)
        return [o for o in objects if selector.matches(o["metadata"].get("labels") or {})]


def _version(resources: Object, request: Request, rules: str = "resourceRules") -> str:
    exact = resources.get("matchPolicy") == "Exact"
    return matching.matched_version(resources.get(rules) or (), request, exact=exact)


async def builtin_kind(group: str, version: str, kind: str) -> ResourceInfo | None:
    return SCHEME.for_kind(group, version, kind)


class ValidatingPolicies:
    def __init__(self, matcher: PolicyMatcher) -> None:
        self._matcher = matcher
        self._environment: cel.Environment | None = None

    async def validate(self, request: Request) -> None:
        """Raises the first denial, once every policy was heard."""
        applying = await self._matcher.bound(request, POLICIES, BINDINGS)
        if not applying:
            return
        bases: dict[str, Facts] = {}  # by version
        denied: ApiError | None = None
        noted: list[Object] = []
        for bound in applying:
            if bound.version not in bases:
                bases[bound.version] = await self._matcher.facts(request, bound.version)
            for finding in await self._findings(bound, request, bases[bound.version]):
                denied = self._act(bound, finding, request, noted) or denied
        if noted:
            request.annotate(_FAILURES, orjson.dumps(noted).decode())
        if denied is not None:
            raise denied

    async def _findings(self, bound: Bound, request: Request, base: Facts) -> list[Finding]:
        """One for each violation; failures only where failurePolicy makes them count."""
        env, spec = self._env(), bound.spec
        fails = spec.get("failurePolicy") != "Ignore"
        out: list[Finding] = []
        try:
            if not expressions.conditions_hold(spec.get("matchConditions") or (), base, env):
                return []
            for params in await self._matcher.params(bound, request):
                known = base.with_params(params)
                known.compute(env, spec.get("variables") or ())
                for i, validation in enumerate(spec.get("validations") or ()):
                    finding = self._judge(validation, i, known, fails=fails)
                    if finding is not None:
                        out.append(finding)
                out += self._annotate(bound, request, known, fails=fails)
        except (Misconfigured, expressions.ConditionError) as e:
            return [Finding(str(e))] if fails else []
        return out

    def _judge(self, validation: Object, index: int, known: Facts, *, fails: bool) -> Finding | None:
        expression = validation["expression"].strip()
        try:
            if known.evaluate(self._env(), validation["expression"], "BOOL") is True:
                return None
        except cel.CelError as e:
            return Finding(f"expression '{expression}' resulted in error: {e}", index=index) if fails else None
        message = self._message(validation, known) or str(validation.get("message") or "").strip()
        reason = validation.get("reason") or "Invalid"
        return Finding(message or f"failed expression: {expression}", reason, index)

    def _message(self, validation: Object, known: Facts) -> str:
        """Of messageExpression; what cannot be computed, or is no single short line, is as if it were not there."""
        if not validation.get("messageExpression"):
            return ""
        try:
            text = known.evaluate(self._env(), validation["messageExpression"], "STRING")
        except cel.CelError:
            return ""
        if not isinstance(text, str) or "\n" in text.strip() or len(text) > _MAX_MESSAGE:
            return ""
        return text.strip()

    def _annotate(self, bound: Bound, request: Request, known: Facts, *, fails: bool) -> list[Finding]:
        out = []
        for a in bound.spec.get("auditAnnotations") or ():
            try:
                value = known.evaluate(self._env(), a["valueExpression"], "STRING", "NULL")
            except cel.CelError as e:
                if fails:
                    out.append(Finding(f"expression '{a['valueExpression'].strip()}' resulted in error: {e}"))
                continue
            if isinstance(value, str) and value:
                key = f"{bound.names[0]}/{a['key']}"
                before = request.ctx.annotations.get(key)
                if value not in (before or "").split(", "):
                    request.annotate(key, f"{before}, {value}" if before else value)
        return out

    @staticmethod
    def _act(bound: Bound, finding: Finding, request: Request, noted: list[Object]) -> ApiError | None:
        policy, binding = bound.names
        actions: Iterable[str] = (bound.binding.get("spec") or {}).get("validationActions") or ("Deny",)
        if "Audit" in actions:
            noted.append(
                {
                    "message": finding.message,
                    "policy": policy,
                    "binding": binding,
                    "expressionIndex": str(finding.index),
                    "validationActions": list(actions),
                }
            )
        if "Warn" in actions:
            where = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding}'"
            request.warn(f"Validation failed for {where}: {finding.message}")
        if "Deny" not in actions:
            return None
        message = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {finding.message}"
        error = request.forbid(message)
        error.reason, error.code = finding.reason, _CODES.get(finding.reason, 403)
        error.details = {**(error.details or {}), "causes": [{"message": message}]}
        return error

    def _env(self) -> cel.Environment:
        if self._environment is None:
            self._environment = policycel.policy_environment()
        return self._environment
