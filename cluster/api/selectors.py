"""Label and field selectors.

Pure. The text grammar is that of `kubectl -l` and `--field-selector` (k8s.io/apimachinery labels, fields);
parsed selectors are frozen and memoised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}", re.ASCII)
_LABEL_VALUE = re.compile(rf"(?:{_NAME})?", re.ASCII)
_TOKEN = re.compile(r"\s*(!=|==|=|!|<|>|\(|\)|,|[^\s!=<>(),]+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """`op` is one of In, NotIn, Exists, DoesNotExist, Gt, Lt; NotIn also holds where the label is absent."""

    key: str
    op: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        have = labels.get(self.key)
        if self.op == "In":
            return have is not None and have in self.values
        if self.op == "NotIn":
            return have is None or have not in self.values
        if self.op == "Exists":
            return have is not None
        if self.op == "DoesNotExist":
            return have is None
        try:
            return have is not None and (
                int(have) > int(self.values[0]) if self.op == "Gt" else int(have) < int(self.values[0])
            )
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.op == "Exists":
            return self.key
        if self.op == "DoesNotExist":
            return "!" + self.key
        if self.op in ("Gt", "Lt"):
            return f"{self.key}{'>' if self.op == 'Gt' else '<'}{self.values[0]}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.op == 'In' else '!='}{self.values[0]}"
        return f"{self.key} {'in' if self.op == 'In' else 'notin'} ({','.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements hold. `nothing` matches no object: a null LabelSelector struct."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        return all(r.matches(labels or {}) for r in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements and not self.nothing

    def __str__(self) -> str:
        return ",".join(str(r) for r in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


def _check(key: str, values: tuple[str, ...]) -> None:
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(f'key: Invalid value: "{key}": a qualified name must consist of alphanumeric characters')
    for v in values:
        if not _LABEL_VALUE.fullmatch(v):
            raise ValueError(
                f'values[0][{key}]: Invalid value: "{v}": a valid label must be an empty string or consist of '
                "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
            )


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            m = _TOKEN.match(text, at)
            if m is None:
                raise ValueError(f"unable to parse requirement: unexpected character at {at} in {text!r}")
            self.tokens.append(m.group(1))
            at = m.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def requirements(self) -> list[Requirement]:
        out: list[Requirement] = []
        while self.peek():
            r = self.requirement()
            _check(r.key, r.values)
            out.append(r)
            if self.peek():
                if self.take() != ",":
                    raise ValueError(f"found '{self.tokens[self.at - 1]}', expected: ',' or 'end of string'")
                if not self.peek():
                    raise ValueError("found '', expected: identifier after ','")
        return out

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.take()
            return Requirement(self.take(), "DoesNotExist")
        key, op = self.take(), self.peek()
        if op in ("", ","):
            return Requirement(key, "Exists")
        self.take()
        if op in ("=", "==", "!="):
            return Requirement(key, "NotIn" if op == "!=" else "In", (self._value(),))
        if op in ("in", "notin"):
            return Requirement(key, "In" if op == "in" else "NotIn", self._set())
        if op in (">", "<"):
            value = self.take()
            if not re.fullmatch(r"[+-]?\d+", value):
                raise ValueError(
                    f'values[0][{key}]: Invalid value: "{value}": '
                    "for 'Gt', 'Lt' operators, the value must be an integer"
                )
            return Requirement(key, "Gt" if op == ">" else "Lt", (value,))
        raise ValueError(f"found '{op}', expected: in, notin, =, ==, !=, gt, lt")

    def _value(self) -> str:
        return self.take() if self.peek() not in ("", ",") else ""

    def _set(self) -> tuple[str, ...]:
        if self.take() != "(":
            raise ValueError("found '', expected: '('")
        values: list[str] = []
        expect_value = True
        while True:
            token = self.take()
            if token == ")":
                if expect_value:
                    values.append("")
                return tuple(dict.fromkeys(values))
            if token == ",":
                if expect_value:
                    values.append("")
                expect_value = True
            elif token == "":
                raise ValueError("found '', expected: ',', or ')'")
            else:
                values.append(token)
                expect_value = False


@lru_cache(maxsize=4096)
def parse_label_selector(text: str) -> LabelSelector:
    """Raises ValueError with a message for the client."""
    return LabelSelector(tuple(_Parser(text).requirements())) if text.strip() else EVERYTHING


def from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """Equality on every pair (a Service's selector); empty matches everything."""
    return LabelSelector(tuple(Requirement(k, "In", (v,)) for k, v in sorted((labels or {}).items())))


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A LabelSelector struct: None matches nothing, {} everything. Raises ValueError on a bad operator."""
    if selector is None:
        return NOTHING
    requirements = [Requirement(k, "In", (v,)) for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        op = e.get("operator")
        if op not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise ValueError(f'"{op}" is not a valid label selector operator')
        requirements.append(Requirement(e["key"], op, tuple(e.get("values") or ())))
    return LabelSelector(tuple(requirements))


# --- fields ---------------------------------------------------------------------------------------------------------

_DEFAULTS = {
    "spec.unschedulable": "false", "spec.hostNetwork": "false", "status.replicas": "0", "status.successful": "0",
}  # fmt: skip
# Selectable fields that are called otherwise in the object; the first that is there counts.
_READ_AS = {
    "name": ("metadata.name",),
    "source": ("source.component", "reportingComponent"),
    "status.successful": ("status.succeeded",),
}


def field_value(obj: Mapping[str, Any], path: str) -> str:
    """The field as selectors see it: absent is "", booleans are true/false."""
    found = _at(obj, path)
    if found is None or isinstance(found, Mapping):
        found = next((v for v in (_at(obj, other) for other in _READ_AS.get(path, ())) if v), None)
    if found is None:
        return _DEFAULTS.get(path, "")
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found)


def _at(obj: Any, path: str) -> Any:
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, Mapping) else None
    return obj


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    value: str
    negate: bool = False

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return (field_value(obj, self.path) == self.value) != self.negate


@dataclass(frozen=True, slots=True)
class FieldSelector:
    terms: tuple[FieldTerm, ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all(t.matches(obj) for t in self.terms)

    @property
    def empty(self) -> bool:
        return not self.terms

    def required(self, path: str) -> str | None:
        """The value that `path` must equal, if the selector says so."""
        for t in self.terms:
            if t.path == path and not t.negate:
                return t.value
        return None

    def validate(self, allowed: Callable[[str], bool]) -> None:
        """Raises ValueError naming the first field that this resource does not select on."""
        for t in self.terms:
            if not allowed(t.path):
                raise ValueError(f"field label not supported: {t.path}")

    def __str__(self) -> str:
        return ",".join(f"{t.path}{'!=' if t.negate else '='}{t.value}" for t in self.terms)


def _unescape(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)


@lru_cache(maxsize=4096)
def parse_field_selector(text: str) -> FieldSelector:
    """Raises ValueError with Kubernetes' message."""
    terms: list[FieldTerm] = []
    for part in re.split(r"(?<!\\),", text):
        if not part.strip():
            continue
        m = re.match(r"\s*([^=!]+?)\s*(!=|==|=)(.*)\Z", part, re.S)
        if m is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{part}'")
        terms.append(FieldTerm(m.group(1), _unescape(m.group(3).strip()), m.group(2) == "!="))
    return FieldSelector(tuple(terms))
