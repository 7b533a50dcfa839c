"""The part of JSONPath that definitions use: printer columns, replicas, selectable fields.

Pure. `.spec.replicas`, `.metadata.labels.app\\.kubernetes\\.io/name`, `.items[0].name`, `.items[*].name`,
`.conditions[?(@.type=="Ready")].status`, `['a.b']`. Source: k8s.io/client-go `util/jsonpath`, k8s.io/apiextensions.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import orjson

from cluster.api.crd.structural import Schema

Step = Callable[[Any], list[Any]]

_TOKEN = re.compile(
    r"""\.(?P<name>(?:\\.|[^.\[\\])+)      # .name, with \. for a dot in it
      | \[(?P<index>-?\d+)\]
      | (?P<all>\[\*\]|\.\*)
      | \['(?P<quoted>[^']*)'\]
      | \[\?\(@(?P<path>[^=!<>]*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>.*?))?\s*\)\]""",
    re.X,
)


class BadPath(ValueError):
    """Not a path of this form."""


@lru_cache(maxsize=4096)
def parse(path: str) -> tuple[Step, ...]:
    """Raises BadPath."""
    text = path.strip()
    text = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    text = text.removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        m = _TOKEN.match(text, at)
        if m is None:
            raise BadPath(f"unrecognized character in path at {text[at:]!r}")
        steps.append(_step(m))
        at = m.end()
    return tuple(steps)


def _step(m: re.Match[str]) -> Step:
    if m["name"] is not None or m["quoted"] is not None:
        name = re.sub(r"\\(.)", r"\1", m["name"]) if m["name"] is not None else m["quoted"]
        return lambda v: [v[name]] if isinstance(v, dict) and name in v else []
    if m["index"] is not None:
        i = int(m["index"])
        return lambda v: [v[i]] if isinstance(v, list) and -len(v) <= i < len(v) else []
    if m["all"] is not None:
        return lambda v: list(v) if isinstance(v, list) else list(v.values()) if isinstance(v, dict) else []
    return _filter(m["path"], m["op"], m["value"])


def _filter(path: str, op: str | None, value: str | None) -> Step:
    inner = parse(path.strip())
    wanted = _literal(value or "")

    def keeps(item: Any) -> bool:
        found = find(inner, item)
        if op is None:
            return bool(found)
        return bool(found) and _compare(found[0], op, wanted)

    return lambda v: [i for i in v if keeps(i)] if isinstance(v, list) else []


def _literal(text: str) -> Any:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compare(a: Any, op: str, b: Any) -> bool:
    try:
        return bool(_OPERATORS[op](a, b))
    except TypeError:  # of different types: neither is less
        return False


def find(steps: tuple[Step, ...], obj: Any) -> list[Any]:
    """All values at the path, in order."""
    found = [obj]
    for step in steps:
        found = [x for v in found for x in step(v)]
    return found


def get(path: str, obj: Any) -> Any:
    """The first value at the path; None when there is none."""
    found = find(parse(path), obj)
    return found[0] if found else None


_PARTS = re.compile(r"'(?:[^'\\]|\\.)*'|[.\[\]]|[^.\[\]]+")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "'": "'", "\\": "\\"}


def place_of(path: str, schema: Schema, *, brackets: bool = True) -> tuple[tuple[str, ...], Schema]:
    """The keys of a path like `.spec['a.b'].c`, and the place in the schema that it leads to; raises BadPath, with
    Kubernetes' words. `brackets`: whether ['...'] may be used."""
    keys: list[str] = []
    parts = iter(_PARTS.findall(path))
    for part in parts:
        if part == "[":
            if not brackets:
                raise BadPath("array notation is not allowed")
            name = _quoted(_next(parts))
        elif part == ".":
            name = _next(parts)
        else:
            raise BadPath(f"expected [ or . but got: {part}")
        found = schema.properties.get(name) if schema.properties else schema.additional
        if found is None:
            raise BadPath("does not refer to a valid field")
        if part == "[" and (end := _next(parts)) != "]":
            raise BadPath(f"expected ] but got {end}")
        keys.append(name)
        schema = found
    return tuple(keys), schema


def _next(parts: Iterator[str]) -> str:
    part = next(parts, None)
    if part is None:
        raise BadPath("unexpected end of JSON path")
    return part


def _quoted(text: str) -> str:
    if len(text) < 2 or text[0] != "'" or text[-1] != "'":
        raise BadPath(f"expected single quoted string but got {text}")

    def character(m: re.Match[str]) -> str:
        if m[1] not in _ESCAPES:
            raise BadPath(f"invalid string literal: invalid escape char {m[0]}")
        return _ESCAPES[m[1]]

    return re.sub(r"\\(.)", character, text[1:-1])
