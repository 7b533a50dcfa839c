"""YAML from clients, read as the JSON it stands for. Pure.

Aliases are refused: nested ones grow without bound when they are written out. Dates stay strings, as JSON has none.
"""

from __future__ import annotations

from typing import Any

import orjson
import yaml


class BadYaml(ValueError):
    """The text is not YAML, or says what JSON cannot."""


class _Loader(yaml.CSafeLoader):
    """YAML as JSON has it: no timestamps."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load(raw: bytes | str) -> Any:
    """What JSON would hold. Raises BadYaml."""
    try:
        if any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(raw, Loader=yaml.CSafeLoader)):
            raise BadYaml("YAML aliases are not accepted")
        return orjson.loads(orjson.dumps(yaml.load(raw, Loader=_Loader), option=orjson.OPT_NON_STR_KEYS))
    except (yaml.YAMLError, orjson.JSONEncodeError, RecursionError, UnicodeDecodeError) as e:
        raise BadYaml(str(e)) from e
