"""CEL rules of a schema, evaluated against a custom object.

Pure. A rule sees its place as `self` and, on an update, what was there as `oldSelf`. A rule that names oldSelf is a
transition rule: it runs only when both are there (unless optionalOldSelf, when oldSelf is an optional). Other rules
are forgiven for values that did not change. Source: KEP-2876, KEP-4008.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from cluster.api import cel
from cluster.api.crd.instances import key_of, old_items
from cluster.api.crd.structural import MISSING, Rule, Schema
from cluster.api.crd.values import cel_type, to_cel
from cluster.api.errors import Cause

Json = dict[str, Any]

_OPTIONAL = "cel.bind(oldSelf, hasOldSelf ? optional.of(oldSelfValue) : optional.none(), {})"
_ROOT_METADATA = ("name", "generateName")


def compile_rule(rule: Rule, schema: Schema) -> cel.Program:
    """Raises cel.CompileError."""
    kind = cel_type(schema)
    if rule.optional_old_self:
        env = cel.environment("oldSelfValue", self=kind, hasOldSelf="bool")
        env.compile(_OPTIONAL.format("true"))  # a rule that breaks out of the brackets is refused on its own
        return env.compile(_OPTIONAL.format(f"({rule.expression}\n)"), "BOOL")
    return cel.environment(self=kind, oldSelf=kind).compile(rule.expression, "BOOL")


def compile_message(rule: Rule, schema: Schema) -> cel.Program:
    kind = cel_type(schema)
    if rule.optional_old_self:
        env = cel.environment("oldSelfValue", self=kind, hasOldSelf="bool")
        return env.compile(_OPTIONAL.format(f"({rule.message_expression}\n)"), "STRING")
    return cel.environment(self=kind, oldSelf=kind).compile(rule.message_expression, "STRING")


@lru_cache(maxsize=8192)
def _compiled(rule: Rule, kind: str) -> tuple[cel.Program, cel.Program | None]:
    place = Schema(type=_SCHEMA_TYPE.get(kind, ""), format=_SCHEMA_FORMAT.get(kind, ""))
    try:
        message = compile_message(rule, place) if rule.message_expression else None
    except cel.CompileError:
        message = None
    return compile_rule(rule, place), message


_SCHEMA_TYPE = {
    "map": "object", "list": "array", "string": "string", "int": "integer", "double": "number", "bool": "boolean",
    "timestamp": "string", "duration": "string", "bytes": "string",
}  # fmt: skip
_SCHEMA_FORMAT = {"timestamp": "date-time", "duration": "duration", "bytes": "byte"}


def mentions_old(rule: Rule, program: cel.Program) -> bool:
    """Whether the rule itself names oldSelf; with optionalOldSelf its program does always."""
    if not rule.optional_old_self:
        return uses_old(program)
    try:
        return "oldSelf" in cel.environment("self", "oldSelf").compile(rule.expression).names
    except cel.CompileError:  # what the true type allows and an unknown one does not
        return True


def uses_old(program: cel.Program) -> bool:
    return bool(program.names & {"oldSelf", "oldSelfValue"})


def validate(schema: Schema, obj: Json, old: Json | None = None) -> list[Cause]:
    """Causes of a custom object whose values have their schema's types."""
    if not schema.has_rules:
        return []
    walk = _Walk([], cel.Budget())
    before = MISSING if old is None else _rooted(old)
    try:
        _visit(walk, "", schema, _rooted(obj), before)
    except cel.OutOfBudget as e:
        walk.causes.append(Cause("FieldValueInvalid", f"Invalid value: {e}", "<nil>"))
    return walk.causes


@dataclass(frozen=True, slots=True)
class _Walk:
    """One object's validation."""

    causes: list[Cause]
    budget: cel.Budget


def _rooted(obj: Json) -> Json:
    """Of the metadata, rules see only the name."""
    metadata = obj.get("metadata") or {}
    return {**obj, "metadata": {k: metadata[k] for k in _ROOT_METADATA if k in metadata}}


def _visit(walk: _Walk, path: str, schema: Schema, value: Any, old: Any) -> None:
    if value is None:
        return
    for rule in schema.rules:
        cause = _judge(walk.budget, rule, path, schema, value, old)
        if cause is not None:
            walk.causes.append(cause)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for key, item in value.items():
            sub = schema.child(key)
            if sub is not None and sub.has_rules:
                _visit(walk, f"{path}.{key}" if path else key, sub, item, before.get(key, MISSING))
    elif isinstance(value, list) and schema.items is not None and schema.items.has_rules:
        known = old_items(schema, old)
        for i, item in enumerate(value):
            key = key_of(schema, item) if known else None
            _visit(walk, f"{path}[{i}]", schema.items, item, known.get(key, MISSING) if key else MISSING)


def _judge(budget: cel.Budget, rule: Rule, path: str, schema: Schema, value: Any, old: Any) -> Cause | None:
    """The cause when the object breaks the rule; raises OutOfBudget."""
    try:
        program, message = _compiled(rule, cel_type(schema))
    except cel.CompileError as e:
        return _cause("FieldValueInvalid", path, value, f"rule compile error: compilation failed: {e}")
    transition, there = uses_old(program), old is not MISSING
    if transition and not there and not rule.optional_old_self:
        return None
    if not transition and path and there and value == old:
        return None
    data = {"self": to_cel(schema, value)}
    if transition:
        before = to_cel(schema, old) if there else None
        data |= {"oldSelfValue": before, "hasOldSelf": there} if rule.optional_old_self else {"oldSelf": before}
    elif rule.optional_old_self:
        data |= {"hasOldSelf": there}
    try:
        if program.evaluate(data, budget=budget) is True:
            return None
    except cel.OutOfBudget:
        raise
    except cel.EvaluationError as e:
        return _cause("FieldValueInvalid", path, value, _failure(str(e), rule.expression))
    where = path + rule.field_path if path else rule.field_path.removeprefix(".")
    return _cause(rule.reason, where, value, _detail(rule, message, data))


def _failure(error: str, expression: str) -> str:
    if error == "no such overload":
        return f"call arguments did not match a supported operator, function or macro signature for rule: {expression}"
    if error.startswith("operation cancelled"):
        return f"call cost exceeds limit for rule: {expression}"
    return f"{error} evaluating rule: {expression}"


def _detail(rule: Rule, message: cel.Program | None, data: Json) -> str:
    """messageExpression, where it gives a line of text; else message; else the rule itself."""
    if message is not None:
        try:
            text = message.evaluate(data)
        except cel.EvaluationError:
            text = None
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    return rule.message or f"failed rule: {rule.expression.strip()}"


def _cause(reason: str, path: str, value: Any, detail: str) -> Cause:
    shown = "" if isinstance(value, dict | list) else ": " + orjson.dumps(value).decode()
    head = {
        "FieldValueForbidden": "Forbidden",
        "FieldValueRequired": "Required value",
        "FieldValueDuplicate": f"Duplicate value{shown}",
    }.get(reason, f"Invalid value{shown}")
    return Cause(reason, f"{head}: {detail}", path or "<nil>")
