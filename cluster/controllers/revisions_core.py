"""ControllerRevisions: the history of a workload's template, newest last.

Pure. A revision's `data` is the patch Kubernetes keeps (`{"spec": {"template": {..., "$patch": "replace"}}}`), so that
`kubectl rollout undo` and `rollout history` read it. Source: kubernetes pkg/controller/history.

Invariants: equal templates share one revision; going back to an old template gives its revision the highest number
(and no new name), so that "newest" and "wanted" are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from cluster.api.meta import owner_reference
from cluster.controllers.naming import fnv1a_32, safe_encode
from cluster.machinery.client import Obj, clone

HASH_LABEL = "controller.kubernetes.io/hash"
REVISION_HASH_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision of the owner's template and what has to be written for it."""

    revision: Obj
    write: Literal["", "create", "renumber"]


def data_of(owner: Obj) -> dict[str, Any]:
    return {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}


def template_of(revision: Obj) -> Obj:
    """The pod template a revision keeps, as a copy."""
    template = clone(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


def number(revision: Obj) -> int:
    return int(revision.get("revision") or 0)


def ordered(revisions: Sequence[Obj]) -> list[Obj]:
    """Oldest first: by number, then age, then name."""
    return sorted(
        revisions,
        key=lambda r: (number(r), r["metadata"].get("creationTimestamp", ""), r["metadata"]["name"]),
    )


def wanted(owner: Obj, revisions: Sequence[Obj], hash_label: str, collision_count: int) -> Wanted:
    """`hash_label` carries the hash on the revision."""
    history, data = ordered(revisions), data_of(owner)
    top = number(history[-1]) if history else 0
    equal = [r for r in history if r.get("data") == data]
    if not equal:
        return Wanted(_new(owner, data, top + 1, hash_label, collision_count), "create")
    if equal[-1] is history[-1]:
        return Wanted(equal[-1], "")
    changed = clone(equal[-1])
    changed["revision"] = top + 1
    return Wanted(changed, "renumber")


def surplus(revisions: Sequence[Obj], live: Collection[str], limit: int) -> list[Obj]:
    """Revisions to delete, oldest first: those beyond `limit` that no pod and no status names (`live`: names)."""
    idle = [r for r in ordered(revisions) if r["metadata"]["name"] not in live]
    return idle[: max(len(idle) - limit, 0)]


def _new(owner: Obj, data: dict[str, Any], revision: int, hash_label: str, collision_count: int) -> Obj:
    text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    kept = orjson.loads(text)  # clients compare the bytes with what they would write, in the order of the keys
    if collision_count:
        text += collision_count.to_bytes(8, "little")
    digest = safe_encode(str(fnv1a_32(text)))
    meta = owner["metadata"]
    labels = {**((owner["spec"]["template"].get("metadata") or {}).get("labels") or {}), hash_label: digest}
    obj: Obj = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{meta['name'][:223]}-{digest}",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(owner)],
        },
        "data": kept,
        "revision": revision,
    }
    if meta.get("annotations"):
        obj["metadata"]["annotations"] = dict(meta["annotations"])
    return obj
