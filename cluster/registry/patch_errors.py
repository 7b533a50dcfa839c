"""What a client is told whose patch leaves something that is no object of its kind any more. Pure.

Kubernetes answers 422 about the field "patch". It decodes the result of a JSON or merge patch from text, so the words
are those of Go's JSON decoder and the value is the whole result; a strategic merge patch it converts from a tree, in
the words of that converter, and the value is the patch. Source: apiserver/pkg/endpoints/handlers/patch.go and
apimachinery/pkg/runtime/converter.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from cluster.api import errors, patch, typecheck

_GO_KINDS = {"string": "string", "bool": "bool", "array": "slice", "object": "map"}
_NUMBERS = ("int32", "int64", "float64")


@contextmanager
def fitting(media_type: str, wish: Any, patched: Any) -> Iterator[None]:
    """Around the decoding of what a patch made. `wish`: the patch; `patched`: what it made of the object."""
    try:
        yield
    except errors.ApiError as e:
        if isinstance(e.__cause__, typecheck.DecodeError):
            raise _unfit(e.__cause__, media_type, wish, patched) from e
        raise


def _unfit(failure: typecheck.DecodeError, media_type: str, wish: Any, patched: Any) -> errors.ApiError:
    if media_type == patch.STRATEGIC_PATCH:
        value, why = go_text(wish), _converter_text(failure)
    else:
        value, why = orjson.dumps(patched).decode(), str(failure)
    text = f"Invalid value: {orjson.dumps(value).decode()}: {why}"
    return errors.invalid("", "", "", [errors.Cause("FieldValueInvalid", text, "patch")])


def _converter_text(failure: typecheck.DecodeError) -> str:
    if not isinstance(failure, typecheck.WrongType):
        return str(failure)
    wanted = failure.type_name
    given = _GO_KINDS.get(failure.what, "float64" if "." in failure.what else "int64")
    if wanted.startswith("map["):
        return f"cannot restore map from {given}"
    if wanted.startswith("[]"):
        return f"cannot restore slice from {given}"
    if wanted == "string" and given == "int64":
        return "cannot convert int64 to string"
    if wanted in (*_NUMBERS, "bool", "string"):
        return f"unrecognized type: {wanted}"
    return f"cannot restore struct from: {given}"


def go_text(value: Any) -> str:
    """A JSON tree as Go's %+v prints it: maps by sorted key."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{go_text(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_text, value)) + "]"
    if value is None:
        return "<nil>"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
