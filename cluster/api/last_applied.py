"""Going over from `kubectl apply` to `kubectl apply --server-side`: the annotation in which the former keeps what it
applied. Pure.

Only for the field manager `kubectl`, so that a client opts out by another name. What the annotation says and the object
still has was kubectl's own by client-side apply, so changing it by server-side apply is no conflict; and an annotation
that is there is kept in step, so that one may go back. Source: apimachinery/pkg/util/managedfields/internal
(lastappliedmanager.go, lastappliedupdater.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cluster.api import fieldsets, fieldwalks, typecheck
from cluster.api.schema import Node

ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl"
_MAX_ANNOTATIONS_BYTES = 256 * 1024

Object = dict[str, Any]


def of(obj: Mapping[str, Any]) -> str:
    """What it says; "" where there is none."""
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION) or "")


def still_owned(node: Node, live: Object) -> fieldsets.FieldSet:
    """The fields that client-side apply has set and nobody has changed since."""
    try:
        applied = orjson.loads(of(live) or "null")
        if not isinstance(applied, dict) or applied.get("apiVersion") != live.get("apiVersion"):
            return {}
        applied = typecheck.prune(node, applied)[0]
    except (orjson.JSONDecodeError, typecheck.DecodeError):
        return {}  # somebody wrote the annotation by hand: it proves nothing
    changed, removed = fieldwalks.compare(node, applied, live)
    return fieldsets.difference(fieldsets.difference(fieldwalks.field_set(node, applied), changed), removed)


def follow(obj: Object, wish: Object) -> None:
    """Let the annotation of `obj`, if it has one, say what was applied now."""
    if not of(obj):
        return
    metadata = dict(wish["metadata"])
    annotations = {k: v for k, v in (metadata.pop("annotations", None) or {}).items() if k != ANNOTATION}
    if annotations:
        metadata["annotations"] = annotations
    text = orjson.dumps({**wish, "metadata": metadata}, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    kept = {**obj["metadata"]["annotations"], ANNOTATION: text}
    if sum(len(k) + len(v) for k, v in kept.items()) > _MAX_ANNOTATIONS_BYTES:
        del kept[ANNOTATION]
    obj["metadata"]["annotations"] = kept
