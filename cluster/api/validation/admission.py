"""Validation of admissionregistration.k8s.io: webhook configurations, policies and their bindings.

Pure. Expressions are compiled, so that a faulty one is refused when it is written and not when it is needed. Source:
k8s.io/kubernetes pkg/apis/admissionregistration/validation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cluster.api import cel, policycel
from cluster.api.errors import Cause
from cluster.api.validation import fields
from cluster.api.validation.fields import Faults
from cluster.api.validation.webhook_clients import validate_client

Object = dict[str, Any]

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_ACTIONS = ("Audit", "Deny", "Warn")
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
_MAX_CONDITIONS = 64
_TYPES = {"MAP": "Object", "LIST": "list of JSONPatch", "NULL": "null"}
_IDENTIFIER = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*", re.ASCII)
_RESERVED = frozenset(
    ("in", "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "let", "loop",
     "package", "namespace", "return", "true", "null", "var", "void", "while")
)  # fmt: skip


# --- webhooks -------------------------------------------------------------------------------------------------------


def validate_mutating_webhooks(faults: Faults, obj: Object) -> None:
    _webhooks(faults, obj, mutating=True)


def validate_validating_webhooks(faults: Faults, obj: Object) -> None:
    _webhooks(faults, obj, mutating=False)


def _webhooks(faults: Faults, obj: Object, *, mutating: bool) -> None:
    seen: set[str] = set()
    for i, hook in enumerate(obj.get("webhooks") or ()):
        at = f"webhooks[{i}]"
        name = hook.get("name") or ""
        _qualified(faults, f"{at}.name", name)
        if name in seen:
            faults.duplicate(f"{at}.name", name)
        seen.add(name)
        _versions(faults, f"{at}.admissionReviewVersions", hook.get("admissionReviewVersions") or [])
        for j, rule in enumerate(hook.get("rules") or ()):
            _rule(faults, f"{at}.rules[{j}]", rule)
        _policy_fields(faults, at, hook)
        side_effects = hook.get("sideEffects")
        if side_effects is None:
            faults.required(f"{at}.sideEffects", "must specify one of None, NoneOnDryRun")
        else:
            faults.enum(f"{at}.sideEffects", side_effects, ("None", "NoneOnDryRun"))
        timeout = hook.get("timeoutSeconds")
        if timeout is not None and not 1 <= timeout <= 30:
            faults.invalid(f"{at}.timeoutSeconds", timeout, "the timeout value must be between 1 and 30 seconds")
        if mutating and hook.get("reinvocationPolicy") is not None:
            faults.enum(f"{at}.reinvocationPolicy", hook["reinvocationPolicy"], ("IfNeeded", "Never"))
        validate_client(faults, f"{at}.clientConfig", hook.get("clientConfig") or {})
        _conditions(faults, f"{at}.matchConditions", hook.get("matchConditions") or [], policycel.condition_environment)


def _qualified(faults: Faults, at: str, name: str) -> None:
    """A webhook's name is a domain of at least three parts, so that it says whose it is."""
    if not name:
        faults.required(at)
        return
    faults.check(at, name, fields.dns_subdomain(name))
    if name.count(".") < 2:
        faults.invalid(at, name, "should be a domain with at least three segments separated by dots")


def _versions(faults: Faults, at: str, versions: list[str]) -> None:
    if not versions:
        faults.required(at, "must specify one of v1, v1beta1")
        return
    for i, version in enumerate(versions):
        faults.check(f"{at}[{i}]", version, fields.dns_1035_label(version))
        if version in versions[:i]:
            faults.invalid(f"{at}[{i}]", version, "duplicate version")
    if not {"v1", "v1beta1"} & set(versions):
        faults.invalid(at, versions, "must include at least one of v1, v1beta1")


def _policy_fields(faults: Faults, at: str, spec: Object) -> None:
    if spec.get("failurePolicy") is not None:
        faults.enum(f"{at}.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    if spec.get("matchPolicy") is not None:
        faults.enum(f"{at}.matchPolicy", spec["matchPolicy"], ("Equivalent", "Exact"))
    for field in ("namespaceSelector", "objectSelector"):
        fields.label_selector(faults, f"{at}.{field}", spec.get(field))


def _rule(faults: Faults, at: str, rule: Object) -> None:
    operations = rule.get("operations") or []
    if not operations:
        faults.required(f"{at}.operations")
    if len(operations) > 1 and "*" in operations:
        faults.invalid(f"{at}.operations", operations, "if '*' is present, must not specify other operations")
    for i, operation in enumerate(operations):
        faults.enum(f"{at}.operations[{i}]", operation, _OPERATIONS)
    for field in ("apiGroups", "apiVersions", "resources"):
        values = rule.get(field) or []
        if not values:
            faults.required(f"{at}.{field}")
        for i, value in enumerate(values):
            if not value and field != "apiGroups":
                faults.required(f"{at}.{field}[{i}]")
        what = "resources" if field == "resources" else field.removeprefix("api").lower()
        if len(values) > 1 and "*" in values and field != "resources":
            faults.invalid(f"{at}.{field}", values, f"if '*' is present, must not specify other API {what}")
    if rule.get("scope") is not None:
        faults.enum(f"{at}.scope", rule["scope"], ("*", "Cluster", "Namespaced"))
    _overlaps(faults, f"{at}.resources", rule.get("resources") or [])


def _overlaps(faults: Faults, at: str, resources: list[str]) -> None:
    """`*/*` alone covers everything, `*/scale` all of that subresource, `pods/*` all of pods."""
    if "*/*" in resources and len(resources) > 1:
        faults.invalid(at, resources, "if '*/*' is present, must not specify other resources")
    for i, resource in enumerate(resources):
        name, slash, sub = resource.partition("/")
        if slash and sub != "*" and f"{name}/*" in resources:
            faults.invalid(f"{at}[{i}]", resource, f"if '{name}/*' is present, must not specify {resource}")
        elif slash and name != "*" and f"*/{sub}" in resources:
            faults.invalid(f"{at}[{i}]", resource, f"if '*/{sub}' is present, must not specify {resource}")
        elif not slash and resource != "*" and "*" in resources:
            faults.invalid(at, resources, "if '*' is present, must not specify other resources without subresources")


# --- expressions ----------------------------------------------------------------------------------------------------


def _expression(faults: Faults, at: str, text: Any, env: cel.Environment, *results: str) -> None:
    if not isinstance(text, str) or not text.strip():
        faults.required(at, "expression is not specified")
        return
    try:
        result = env.compile(policycel.to_maps(text)).result.partition("<")[0]
    except cel.CompileError as e:
        faults.invalid(at, text, f"compilation failed: {e}")
        return
    if results and result not in (*results, "DYN"):
        wanted = " or ".join(_TYPES.get(r, r.lower()) for r in results)
        faults.invalid(at, text, f"must evaluate to {wanted}")


def _conditions(faults: Faults, at: str, conditions: list[Object], env: Callable[[], cel.Environment]) -> None:
    if len(conditions) > _MAX_CONDITIONS:
        message = f"Too many: {len(conditions)}: must have at most {_MAX_CONDITIONS} items"
        faults.causes.append(Cause("FieldValueTooMany", message, at))
    seen: set[str] = set()
    for i, c in enumerate(conditions):
        name = c.get("name") or ""
        if not name:
            faults.required(f"{at}[{i}].name")
        else:
            faults.check(f"{at}[{i}].name", name, fields.qualified_name(name))
        if name in seen:
            faults.duplicate(f"{at}[{i}].name", name)
        seen.add(name)
        _expression(faults, f"{at}[{i}].expression", c.get("expression"), env(), "BOOL")


# --- policies -------------------------------------------------------------------------------------------------------


def validate_validating_policy(faults: Faults, obj: Object) -> None:
    spec, env = obj.get("spec") or {}, policycel.policy_environment()
    _policy(faults, spec)
    validations, annotations = spec.get("validations") or [], spec.get("auditAnnotations") or []
    if not validations and not annotations:
        why = "validations or contain auditAnnotations are required"
        faults.required("spec.validations", f"{why}; at least one must be provided")
    for i, v in enumerate(validations):
        at = f"spec.validations[{i}]"
        _expression(faults, f"{at}.expression", v.get("expression"), env, "BOOL")
        if v.get("messageExpression") is not None:
            _expression(faults, f"{at}.messageExpression", v["messageExpression"], env, "STRING")
        message = v.get("message")
        if message is not None and not message.strip():
            faults.invalid(f"{at}.message", message, "message must be non-empty if specified")
        elif message and "\n" in message.strip():
            faults.invalid(f"{at}.message", message, "message must not contain line breaks")
        if v.get("reason") is not None:
            faults.enum(f"{at}.reason", v["reason"], _REASONS)
    seen: set[str] = set()
    for i, a in enumerate(annotations):
        at, key = f"spec.auditAnnotations[{i}]", a.get("key") or ""
        faults.check(f"{at}.key", key, fields.qualified_name(key))
        if key in seen:
            faults.duplicate(f"{at}.key", key)
        seen.add(key)
        _expression(faults, f"{at}.valueExpression", a.get("valueExpression"), env, "STRING", "NULL")


def validate_mutating_policy(faults: Faults, obj: Object) -> None:
    spec, env = obj.get("spec") or {}, policycel.policy_environment()
    _policy(faults, spec)
    if not spec.get("mutations"):
        faults.required("spec.mutations", "mutations must contain at least one item")
    if spec.get("reinvocationPolicy") is None:
        faults.required("spec.reinvocationPolicy")
    else:
        faults.enum("spec.reinvocationPolicy", spec["reinvocationPolicy"], ("IfNeeded", "Never"))
    for i, m in enumerate(spec.get("mutations") or ()):
        at, kind = f"spec.mutations[{i}]", m.get("patchType")
        parts = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
        if not kind:
            faults.required(f"{at}.patchType")
            continue
        if kind not in parts:
            faults.unsupported(f"{at}.patchType", kind, parts)
            continue
        wanted = parts[kind]
        for part in parts.values():
            if part != wanted and m.get(part) is not None:
                faults.forbidden(f"{at}.{part}", f"must not be specified when patchType is {kind}")
        if m.get(wanted) is None:
            faults.required(f"{at}.{wanted}", f"must be specified when patchType is {kind}")
        else:
            result = ("MAP",) if kind == "ApplyConfiguration" else ("LIST",)
            _expression(faults, f"{at}.{wanted}.expression", m[wanted].get("expression"), env, *result)


def _policy(faults: Faults, spec: Object) -> None:
    """What validating and mutating policies share."""
    if spec.get("failurePolicy") is not None:
        faults.enum("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    kind = spec.get("paramKind")
    if kind is not None:
        for field in ("apiVersion", "kind"):
            if not kind.get(field):
                faults.required(f"spec.paramKind.{field}")
    constraints = spec.get("matchConstraints")
    if constraints is None:
        faults.required("spec.matchConstraints")
    else:
        if not constraints.get("resourceRules"):
            faults.required("spec.matchConstraints.resourceRules")
        _match_resources(faults, "spec.matchConstraints", constraints)
    seen: set[str] = set()
    env = policycel.policy_environment()
    for i, v in enumerate(spec.get("variables") or ()):
        at, name = f"spec.variables[{i}]", v.get("name") or ""
        if not name:
            faults.required(f"{at}.name", "name is not specified")
        elif not _IDENTIFIER.fullmatch(name) or name in _RESERVED:
            faults.invalid(f"{at}.name", name, "name is not a valid CEL identifier")
        if name in seen:
            faults.duplicate(f"{at}.name", name)
        seen.add(name)
        _expression(faults, f"{at}.expression", v.get("expression"), env)
    _conditions(faults, "spec.matchConditions", spec.get("matchConditions") or [], policycel.policy_environment)


def _match_resources(faults: Faults, at: str, resources: Object) -> None:
    _policy_fields(faults, at, resources)
    for field in ("resourceRules", "excludeResourceRules"):
        for i, rule in enumerate(resources.get(field) or ()):
            _rule(faults, f"{at}.{field}[{i}]", rule)


def validate_validating_binding(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _binding(faults, spec)
    actions = spec.get("validationActions") or []
    at = "spec.validationActions"
    if not actions:
        faults.required(at, "at least one validation action is required")
    for i, action in enumerate(actions):
        faults.enum(f"{at}[{i}]", action, _ACTIONS)
        if action in actions[:i]:
            faults.duplicate(f"{at}[{i}]", action)
    if {"Deny", "Warn"} <= set(actions):
        why = "must not contain both Deny and Warn (repeating the same validation failure information in the API "
        faults.invalid(at, actions, why + "response and headers serves no purpose)")


def validate_mutating_binding(faults: Faults, obj: Object) -> None:
    _binding(faults, obj.get("spec") or {})


def _binding(faults: Faults, spec: Object) -> None:
    name = spec.get("policyName") or ""
    if not name:
        faults.required("spec.policyName")
    else:
        faults.check("spec.policyName", name, fields.dns_subdomain(name))
    ref = spec.get("paramRef")
    if ref is not None:
        if not ref.get("name") and ref.get("selector") is None:
            faults.required("spec.paramRef", "one of name or selector must be specified")
        elif ref.get("name") and ref.get("selector") is not None:
            faults.forbidden("spec.paramRef.name", "name and selector are mutually exclusive")
        fields.label_selector(faults, "spec.paramRef.selector", ref.get("selector"))
        if ref.get("parameterNotFoundAction") is None:
            faults.required("spec.paramRef.parameterNotFoundAction")
        else:
            faults.enum("spec.paramRef.parameterNotFoundAction", ref["parameterNotFoundAction"], ("Allow", "Deny"))
    if spec.get("matchResources") is not None:
        _match_resources(faults, "spec.matchResources", spec["matchResources"])
