"""Which objects an owner's controller has to look at, and which owners a change of an object concerns.

Reads informers only. By reference first, then by selector: an object that nobody controls may be for an owner that
selects it to adopt (`refs.claim`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cluster.api.meta import controller_of
from cluster.api.selectors import LabelSelector, from_label_selector
from cluster.machinery.client import Obj, key_of
from cluster.machinery.informer import Informer

OWNER_UID, ORPHAN_NAMESPACE = "owner-uid", "orphan-namespace"


def selector_of(owner: Obj) -> LabelSelector:
    return from_label_selector(owner["spec"].get("selector"))


def index_by_owner(informer: Informer) -> None:
    """What `owned` and `candidates` look in; can be said by several controllers of one informer."""
    informer.add_index(OWNER_UID, _owner_uid)
    informer.add_index(ORPHAN_NAMESPACE, _orphan_namespace)


def owned(informer: Informer, owner: Obj) -> list[Obj]:
    """What refers to the owner as its controller."""
    return informer.by_index(OWNER_UID, owner["metadata"]["uid"])


def candidates(informer: Informer, owner: Obj) -> list[Obj]:
    """What the owner has, and what nobody has in its namespace: to be sorted by `refs.claim`."""
    return owned(informer, owner) + informer.by_index(ORPHAN_NAMESPACE, owner["metadata"]["namespace"])


def concerned(
    kind: str,
    owners: Informer,
    old: Obj | None,
    new: Obj | None,
    selector: Callable[[Obj], LabelSelector] = selector_of,
) -> Iterator[str]:
    """Keys of the owners of `kind` that an object's change concerns: its controller before and after, or, where it now
    has none, all whose selector takes it."""
    for obj in (old, new):
        if obj is None:
            continue
        ref, namespace = controller_of(obj), obj["metadata"]["namespace"]
        if ref is not None:
            if ref.get("kind") == kind:
                yield f"{namespace}/{ref['name']}"
        elif obj is new and (labels := obj["metadata"].get("labels")):
            yield from (key_of(o) for o in owners.in_namespace(namespace) if selector(o).matches(labels))


def _owner_uid(obj: Obj) -> list[str]:
    ref = controller_of(obj)
    return [ref["uid"]] if ref is not None else []


def _orphan_namespace(obj: Obj) -> list[str]:
    return [] if controller_of(obj) is not None else [obj["metadata"].get("namespace", "")]
