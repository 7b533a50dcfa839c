"""Custom resources and their definitions.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/registry/customresource`, `pkg/registry/customresourcedefinition`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.api.validation.fields import qualified_name

Object = dict[str, Any]

_STANDARD_FINALIZERS = frozenset(("orphan", "foregroundDeletion", "kubernetes"))
_NESTED = ("items", "not", "additionalProperties")
_LISTS = ("allOf", "anyOf", "oneOf")


def resource(new: Object, old: Object | None) -> Iterator[str]:
    yield from _finalizers(new["metadata"], (old or {}).get("metadata") or {})


def definition(new: Object, old: Object | None) -> Iterator[str]:
    known = set(_formats(old)) if old is not None else set()
    for name in _formats(new):
        if name not in known:
            yield f'unrecognized format "{name}"'


def _finalizers(new: Object, old: Object) -> list[str]:
    found: list[str] = []
    for name in sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())):
        said = f'metadata.finalizers: "{name}": '
        why = qualified_name(name)
        if why:
            found.append(said + why)
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            path = " including a path (/)" if "." in name else ""
            found.append(
                f"{said}prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other "
                "finalizer writers"
            )
    return found


def _formats(crd: Object) -> list[str]:
    """Formats of a definition's schemas that nothing checks, once each."""
    from cluster.api.crd import formats  # which uses the functions of this package

    schemas = [(v.get("schema") or {}).get("openAPIV3Schema") for v in crd["spec"].get("versions") or ()]
    written = dict.fromkeys(f for s in schemas if s is not None for f in _written(s))
    return [f for f in written if not formats.known(f)]


def _written(raw: Any) -> Iterator[str]:
    if not isinstance(raw, dict):
        return
    if raw.get("format"):
        yield raw["format"]
    below = [raw.get(k) for k in _NESTED] + [s for k in _LISTS for s in raw.get(k) or ()]
    for sub in [*below, *(raw.get("properties") or {}).values()]:
        yield from _written(sub)
