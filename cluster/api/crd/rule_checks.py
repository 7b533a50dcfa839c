"""Rules of a schema as they are written: are they complete, do they compile, what may they cost.

Pure. Source: KEP-2876, k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.api import cel
from cluster.api.cel.cost import Shape, estimate
from cluster.api.crd import rules
from cluster.api.crd.jsonpath import BadPath, place_of
from cluster.api.crd.structural import Rule, Schema
from cluster.api.crd.values import shape
from cluster.api.validation.fields import Faults

Json = dict[str, Any]

_REASONS = ("FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate")
# Kubernetes' limits on the estimated cost of one rule and of all rules of a version.
_RULE_LIMIT, _TOTAL_LIMIT = 10_000_000, 100_000_000
_SHOWN = 4
_HINT = (
    "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are "
    "declared)"
)


class Costs:
    """What all rules of a schema may cost together, and which cost most."""

    def __init__(self) -> None:
        self._total = 0.0
        self._expensive: list[tuple[float, str]] = []

    def add(self, path: str, cost: float) -> None:
        self._total += min(cost, 1e18)
        if cost >= _TOTAL_LIMIT / 100:
            self._expensive.append((cost, path))

    def judge(self, faults: Faults, path: str) -> None:
        if self._total <= _TOTAL_LIMIT:
            return
        for _, at in sorted(self._expensive, key=lambda c: -c[0])[:_SHOWN]:
            why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            faults.forbidden(at, why)
        what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
        faults.forbidden(path, _too_much(what, self._total / _TOTAL_LIMIT))


def _too_much(what: str, ratio: float) -> str:
    factor = "more than 100x" if ratio > 100 else f"{ratio:f}x" if ratio < 1.5 else f"{ratio:.1f}x"
    return f"{what} exceeds budget by factor of {factor} {_HINT}"


def written(faults: Faults, path: str, raw: Json, schema: Schema | None) -> None:
    """What is missing or malformed about each rule of `raw`."""
    for i, rule in enumerate(raw["x-kubernetes-validations"]):
        at = f"{path}.x-kubernetes-validations[{i}]"
        _texts(faults, at, rule)
        reason, field_path = rule.get("reason"), rule.get("fieldPath") or ""
        if reason is not None and reason not in _REASONS:
            faults.unsupported(f"{at}.reason", reason, _REASONS)
        if field_path and not field_path.strip():
            faults.invalid(f"{at}.fieldPath", field_path, "must be non-empty if specified")
        if _lines(field_path):
            faults.invalid(f"{at}.fieldPath", field_path, "must not contain line breaks")
        if field_path and schema is not None and not _reaches(schema, field_path):
            faults.invalid(f"{at}.fieldPath", field_path, "must be a valid path")


def _texts(faults: Faults, at: str, rule: Json) -> None:
    expression, message = (rule.get("rule") or "").strip(), rule.get("message") or ""
    if not expression:
        faults.required(f"{at}.rule", "rule is not specified")
    elif message and not message.strip():
        faults.invalid(f"{at}.message", message, "must be non-empty if specified")
    elif _lines(message.strip()):
        faults.invalid(f"{at}.message", message, "must not contain line breaks")
    elif _lines(expression) and not message.strip():
        faults.required(f"{at}.message", "message must be specified if rule contains line breaks")
    if rule.get("messageExpression") and not rule["messageExpression"].strip():
        faults.required(f"{at}.messageExpression", "messageExpression must be non-empty if specified")


def _lines(text: str) -> bool:
    return "\n" in text or "\r" in text


def _reaches(schema: Schema, path: str) -> bool:
    try:
        place_of(path, schema)
    except BadPath:
        return False
    return True


@dataclass(frozen=True, slots=True)
class RulePlace:
    """A place in a schema that has rules: an object may hold `count` of it; `uncorrelatable` names the list or map
    that made what was there before impossible to find again, "" when none did."""

    path: str
    raw: Json
    schema: Schema
    count: float
    root: bool
    uncorrelatable: str


def compiled(faults: Faults, place: RulePlace, costs: Costs) -> None:
    """Compile the rules of one place."""
    for i, rule in enumerate(place.schema.rules):
        at, said = f"{place.path}.x-kubernetes-validations[{i}]", place.raw["x-kubernetes-validations"][i]
        try:
            program = rules.compile_rule(rule, place.schema)
        except cel.CompileError as e:
            faults.invalid(f"{at}.rule", said, _failure(e, "cel expression", "compilation failed"))
            continue
        _cost(faults, f"{at}.rule", "estimated rule cost", said, place, costs, program)
        _message(faults, f"{at}.messageExpression", said, rule, place, costs)
        if not rules.mentions_old(rule, program):
            if said.get("optionalOldSelf") is not None:
                why = "may not be set if oldSelf is not used in rule"
                faults.invalid(f"{at}.optionalOldSelf", said["optionalOldSelf"], why)
        elif place.uncorrelatable:
            why = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {place.uncorrelatable}"
            faults.invalid(f"{at}.rule", rule.expression, why)


def _failure(error: cel.CompileError, what: str, failed: str) -> str:
    text = str(error)
    if not text.startswith("must evaluate to"):
        return f"{failed}: {text}"
    kind = text.removeprefix("must evaluate to ")
    return f"{what} must evaluate to a {kind}"


def _message(faults: Faults, path: str, said: Json, rule: Rule, place: RulePlace, costs: Costs) -> None:
    if not rule.message_expression:
        return
    try:
        program = rules.compile_message(rule, place.schema)
    except cel.CompileError as e:
        faults.invalid(path, said, _failure(e, "messageExpression", "messageExpression compilation failed"))
        return
    _cost(faults, path, "estimated messageExpression cost", said, place, costs, program)


def _cost(
    faults: Faults, path: str, what: str, said: Json, place: RulePlace, costs: Costs, program: cel.Program
) -> None:
    known = _shape(place.schema, root=place.root)
    found = estimate(program.tree, {"self": known, "oldSelf": known, "oldSelfValue": known})
    if found.undefined:
        why = f"compilation failed: ERROR: undefined field '{found.undefined[0]}'"
        faults.invalid(path, said, why)
    cost = found.cost * place.count
    costs.add(path, cost)
    if cost > _RULE_LIMIT:
        faults.forbidden(path, _too_much(what, cost / _RULE_LIMIT))


def _shape(schema: Schema, *, root: bool) -> Shape:
    """At the root, apiVersion, kind and metadata are there without being written."""
    known = shape(schema)
    if root:
        for name in ("apiVersion", "kind"):
            known.fields.setdefault(name, shape(Schema(type="string", checks={"maxLength": 253})))
        names = {n: Schema(type="string", checks={"maxLength": 253}) for n in ("name", "generateName")}
        known.fields["metadata"] = shape(Schema(type="object", properties=names))
    return known
