"""Reading a configuration file of sk8's own: JSON of a known format, without settings that this release does not know.

Pure.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import orjson

FORMAT = 1


class ConfigError(ValueError):
    """A configuration that cannot work; every line says what is wrong and what would be right."""


def read_object(data: bytes, what: str, cls: type[Any]) -> dict[str, Any]:
    """The settings in `data`, the file `what`, which are fields of the dataclass `cls`. Raises ConfigError."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise ConfigError(f"{what} is not JSON: {e}") from e
    if not isinstance(raw, dict):
        raise ConfigError(f"{what}: must be a JSON object")
    version = raw.pop("format", None)
    if version != FORMAT:
        raise ConfigError(f"{what}: format {version!r} was written by another version of sk8; this one reads {FORMAT}")
    unknown = sorted(set(raw) - {f.name for f in fields(cls)})
    if unknown:
        raise ConfigError(f"{what}: unknown setting {', '.join(unknown)}")
    return raw
