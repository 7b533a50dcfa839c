"""Type checking of policies: does an expression name fields that the matched kinds do not have?

Pure. Our CEL engine knows no Kubernetes types, so this follows the selections in the compiled expression through the
kinds' schemas: `object.spec.template.spec.containers.all(c, c.image...)`. What it cannot follow it does not judge.
Only built-in kinds that a rule names in full are looked at, as in Kubernetes (KEP-3488, "Type checking").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.api import cel, policycel, schema
from cluster.api.cel import syntax
from cluster.api.schema import Kind, Node
from cluster.api.scheme import SCHEME, ResourceInfo

Object = Mapping[str, Any]
Scope = Mapping[str, Node | None]

_MAX_KINDS = 10
_OBJECTS = ("object", "oldObject")


def warnings(policy: Object) -> list[dict[str, str]]:
    """`status.typeChecking.expressionWarnings` of a ValidatingAdmissionPolicy."""
    kinds = list(_kinds(policy))[:_MAX_KINDS]
    out = []
    for i, validation in enumerate((policy.get("spec") or {}).get("validations") or ()):
        for field in ("expression", "messageExpression"):
            text = validation.get(field)
            if not text:
                continue
            found = [w for w in (_warning(info, text) for info in kinds) if w]
            if found:
                out.append({"fieldRef": f"spec.validations[{i}].{field}", "warning": "\n".join(found)})
    return out


def _kinds(policy: Object) -> Iterator[ResourceInfo]:
    """Sorted, each once, without wildcards and subresources."""
    constraints = (policy.get("spec") or {}).get("matchConstraints") or {}
    seen: set[tuple[str, str, str]] = set()
    for rule in constraints.get("resourceRules") or ():
        for group in rule.get("apiGroups") or ():
            for version in rule.get("apiVersions") or ():
                seen.update((group, version, r) for r in rule.get("resources") or ())
    for key in sorted(seen):
        info = SCHEME.resource(*key)
        if info is not None:
            yield info


def _warning(info: ResourceInfo, text: str) -> str:
    faults = undefined(text, schema.node_of(info))
    return f"{info.api_version}, Kind={info.kind}: " + "\n".join(_shown(text, f) for f in faults) if faults else ""


def _shown(text: str, field: str) -> str:
    """As CEL prints an error: where, what, and the line with a mark below it."""
    found = re.search(rf"\.\s*{re.escape(field)}\b", text)
    at = found.start() if found else 0
    line = text.count("\n", 0, at) + 1
    begin = text.rfind("\n", 0, at) + 1
    source = text[begin:].partition("\n")[0]
    column = at - begin
    return f"ERROR: <input>:{line}:{column + 1}: undefined field '{field}'\n | {source}\n | {'.' * column}^"


def undefined(text: str, node: Node) -> list[str]:
    """Fields that are selected from `object` or `oldObject` and are not in the kind; in order, each once."""
    try:
        tree = policycel.policy_environment().compile(text).tree
    except cel.CompileError:
        return []
    faults: dict[str, None] = {}
    _visit(tree, dict.fromkeys(_OBJECTS, node), faults)
    return list(faults)


def _visit(expr: syntax.Expr, scope: Scope, faults: dict[str, None]) -> Node | None:
    """The type of a value, None when it is not known."""
    if isinstance(expr, syntax.Ident):
        return scope.get(expr.name)
    if isinstance(expr, syntax.Select):
        return _selected(_visit(expr.operand, scope, faults), expr.field, faults)
    if isinstance(expr, syntax.Comprehension):
        over = _visit(expr.range, scope, faults)
        inner = {**scope, expr.variable: over.elem if over is not None and over.kind is Kind.LIST else None}
        inner[expr.accumulator] = None
        for part in (expr.init, expr.condition, expr.step, expr.result):
            _visit(part, inner, faults)
        return None
    types = [_visit(child, scope, faults) for child in syntax.children(expr)]
    if isinstance(expr, syntax.Call) and expr.function == "_[_]" and types[0] is not None:
        return types[0].elem
    return None


def _selected(base: Node | None, field: str, faults: dict[str, None]) -> Node | None:
    if base is None:
        return None
    if base.kind is Kind.MAP:
        return base.elem
    if base.kind is not Kind.STRUCT or field.startswith("__"):
        return None
    child = base.fields.get(field)
    if child is None:
        faults[field] = None
    return child
