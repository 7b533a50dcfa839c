"""Parts of other servers' OpenAPI put into ours: paths of one group version in Swagger 2.0, and what they use.

Pure. A definition that two documents name alike but say differently is renamed in the one that comes later (`_v2`,
`_v3`...), references included. Source: k8s.io/kube-openapi `pkg/aggregator`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from cluster.api import openapi_v2

Doc = dict[str, Any]

log = logging.getLogger(__name__)

_DEFINITION, _PARAMETER = "#/definitions/", "#/parameters/"
_V3_URL = "/openapi/v3/"
_EMPTY: Doc = {"swagger": "2.0", "info": {"title": "", "version": ""}, "paths": {}, "definitions": {}, "security": [],
               "securityDefinitions": {}}  # fmt: skip


def url_of(index: Doc, path: str) -> str:
    """serverRelativeURL of a group version in an index of v3; "" when it is not there."""
    paths = index.get("paths")
    entry = paths.get(path) if isinstance(paths, dict) else None
    url = entry.get("serverRelativeURL") if isinstance(entry, dict) else None
    # Anything else would lead a client somewhere that we do not answer for.
    return url if isinstance(url, str) and url.partition("?")[0] == _V3_URL + path else ""


def readable_part(spec: Doc, prefix: str) -> Doc:
    """`part` if it can be shown in every form of the document, else {}: one server must not spoil it for all."""
    try:
        found = part(spec, prefix)
        openapi_v2.protobuf({**_EMPTY, **found})
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        log.warning("the OpenAPI v2 document for %s is skipped: %s: %s", prefix, type(e).__name__, e)
        return {}
    return found


def part(spec: Doc, prefix: str) -> Doc:
    """`paths` at and below `prefix`, with shared parameters written out, and the `definitions` that they lead to."""
    shared, definitions = spec.get("parameters") or {}, spec.get("definitions") or {}
    paths = {
        path: _with_parameters(item, shared)
        for path, item in (spec.get("paths") or {}).items()
        if path == prefix or path.startswith(prefix + "/")
    }
    used: dict[str, Any] = {}
    ahead = list(_refs(paths))
    while ahead:
        name = ahead.pop()
        if name not in used:
            used[name] = definitions[name]
            ahead += _refs(definitions[name])
    return {"paths": paths, "definitions": used} if paths else {}


def merged(spec: Doc, parts: Iterable[Doc]) -> Doc:
    """`spec` with the parts; paths that it has already stay its own."""
    paths, definitions = dict(spec["paths"]), dict(spec["definitions"])
    for one in parts:
        names = _names(one.get("definitions") or {}, definitions)
        rename = _renamer(names)
        for name, definition in (one.get("definitions") or {}).items():
            definitions.setdefault(names.get(name, name), _mapped(definition, rename))
        for path, item in (one.get("paths") or {}).items():
            paths.setdefault(path, _mapped(item, rename))
    return {**spec, "paths": paths, "definitions": definitions}


def _names(theirs: Doc, taken: Doc) -> dict[str, str]:
    """New names of the definitions that cannot keep theirs: what they say differs, or what they refer to does. Those of
    an earlier part that says the same are taken again, since one server often answers for several group versions."""
    changed: set[str] = set()
    ahead = [name for name, definition in theirs.items() if name in taken and taken[name] != definition]
    while ahead:
        changed.update(ahead)
        left = [name for name in theirs if name in taken and name not in changed]
        ahead = [name for name in left if any(ref in changed for ref in _refs(theirs[name]))]
    number = 1
    while True:
        number += 1
        names = {name: f"{name}_v{number}" for name in theirs if name in changed}
        rename = _renamer(names)
        fits = (new not in taken or taken[new] == _mapped(theirs[name], rename) for name, new in names.items())
        if not any(new in theirs for new in names.values()) and all(fits):
            return names


def _renamer(names: dict[str, str]) -> Callable[[str], str]:
    def rename(ref: str) -> str:
        name = ref.removeprefix(_DEFINITION)
        return _DEFINITION + names.get(name, name)

    return rename


def _mapped(node: Any, rename: Callable[[str], str]) -> Any:
    """A copy with every reference to a definition renamed."""
    if isinstance(node, list):
        return [_mapped(n, rename) for n in node]
    if not isinstance(node, dict):
        return node
    return {k: rename(v) if k == "$ref" and isinstance(v, str) else _mapped(v, rename) for k, v in node.items()}


def _refs(node: Any) -> Iterable[str]:
    if isinstance(node, list):
        for n in node:
            yield from _refs(n)
    elif isinstance(node, dict):
        for k, v in node.items():
            if k == "$ref" and isinstance(v, str):
                yield v.removeprefix(_DEFINITION)
            else:
                yield from _refs(v)


def _with_parameters(item: Doc, shared: Doc) -> Doc:
    """A path whose parameters stand in itself: names of shared ones could collide."""
    out = {k: _with_parameters(v, shared) if isinstance(v, dict) else v for k, v in item.items()}
    if isinstance(item.get("parameters"), list):
        out["parameters"] = [
            shared[p["$ref"].removeprefix(_PARAMETER)] if "$ref" in p else p for p in item["parameters"]
        ]
    return out
