"""Values of types that the engine does not know: maps of one key, the type's name, as its binding passes no objects.

Pure. So equal values must have equal contents: a quantity is its exact fraction, an address its text.
"""

from __future__ import annotations

from typing import Any

Value = dict[str, Any]


class NoOverload(ValueError):
    """The function is not for values of this type; in CEL's words."""

    def __init__(self) -> None:
        super().__init__("no such overload")


def tagged(value: Value, tag: str) -> Any:
    """What a value of type `tag` holds. Raises NoOverload for a value of another type."""
    if tag in value:
        return value[tag]
    raise NoOverload
