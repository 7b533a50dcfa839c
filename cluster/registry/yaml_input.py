"""YAML from clients, read as the JSON it stands for. Pure.

Aliases are refused: nested ones grow without bound when they are written out. So is deep nesting, as soon as it is
seen: libyaml takes quadratic time for it. Dates stay strings, as JSON has none.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
import yaml

from cluster.registry.json_input import MAX_DEPTH


class BadYaml(ValueError):
    """The text is not YAML, or says what JSON cannot."""


class _Loader(yaml.CSafeLoader):
    """YAML as JSON has it: no timestamps. `again` names the keys that a mapping has more than once."""

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self.again: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self.again.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_TAG = "tag:yaml.org,2002:"


def _resolver(tag: str, regexp: re.Pattern[str]) -> tuple[str, re.Pattern[str]]:
    """`12:30` is no number to the base of sixty for Kubernetes' parser."""
    if tag not in (_TAG + "int", _TAG + "float"):
        return tag, regexp
    return tag, re.compile(f"(?!.*:)(?:{regexp.pattern})", regexp.flags)


_Loader.yaml_implicit_resolvers = {
    first: [_resolver(tag, regexp) for tag, regexp in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load(raw: bytes | str) -> Any:
    """What JSON would hold. Raises BadYaml."""
    return load_noting(raw)[0]


def load_noting(raw: bytes | str) -> tuple[Any, list[str]]:
    """The same, and which keys are there more than once, in the words of Kubernetes' parser. Raises BadYaml."""
    try:
        _check(raw)
        loader = _Loader(raw)
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
        return orjson.loads(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS)), loader.again
    except (yaml.YAMLError, orjson.JSONEncodeError, RecursionError, ValueError) as e:  # ValueError: a number too long
        raise BadYaml(str(e)) from e


def _check(raw: bytes | str) -> None:
    """Looks at one event after the other, so that what comes after the first fault is never parsed."""
    depth = 0
    for event in yaml.parse(raw, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise BadYaml("YAML aliases are not accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadYaml(f"exceeded max depth of {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
