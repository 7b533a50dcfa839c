"""What the garbage collector does with one object, given what became of its owners and dependents.

Pure. Source: kubernetes pkg/controller/garbagecollector (attemptToDeleteItem). An owner is
- solid: exists and is not waiting for its dependents;
- waiting: being deleted in the foreground (finalizer foregroundDeletion);
- absent: no object with that uid exists.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.machinery.client import Obj

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class OwnerState(enum.Enum):
    SOLID = "solid"
    WAITING = "waiting"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class DropOwners:
    """Remove the references with these uids; the object stays for its solid owner's sake."""

    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """`unblock`: it no longer holds its owners up, before it is deleted."""

    propagation: str
    unblock: bool = False


Decision = Keep | DropOwners | Delete


def decide(obj: Obj, owners: Mapping[str, OwnerState], dependents: Callable[[], Sequence[Obj]]) -> Decision:
    """`owners`: state by uid of every ownerReference of `obj`; `dependents` is asked only when its owner waits for it.

    An object whose owner waits for it, and on which somebody depends who is being deleted in the foreground, may be
    part of a circle in which all wait for each other: it stops blocking. (That may be wrong, as in Kubernetes; then the
    owner goes a little before its dependents.)
    """
    meta = obj["metadata"]
    refs = meta.get("ownerReferences") or []
    if not refs or ("deletionTimestamp" in meta and FOREGROUND not in (meta.get("finalizers") or [])):
        return Keep()
    if "deletionTimestamp" in meta:
        return Keep()  # in the foreground: its own dependents are looked after through `foreground_done`
    states = [owners[r["uid"]] for r in refs]
    loose = tuple(r["uid"] for r, s in zip(refs, states, strict=True) if s is not OwnerState.SOLID)
    if len(loose) < len(refs):
        return DropOwners(loose) if loose else Keep()
    if OwnerState.WAITING in states:
        waiting = dependents()
        return Delete("Foreground", unblock=any(map(is_foreground, waiting))) if waiting else Delete("Background")
    return Delete(_default_propagation(obj))


def _default_propagation(obj: Obj) -> str:
    finalizers = obj["metadata"].get("finalizers") or []
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"


def foreground_done(owner: Obj, dependents: Sequence[Obj]) -> bool:
    """No dependent is left that blocks the owner's deletion."""
    uid = owner["metadata"]["uid"]
    return not any(
        r.get("uid") == uid and r.get("blockOwnerDeletion")
        for d in dependents
        for r in d["metadata"].get("ownerReferences") or []
    )


def is_foreground(obj: Obj) -> bool:
    meta = obj["metadata"]
    return "deletionTimestamp" in meta and FOREGROUND in (meta.get("finalizers") or [])


def is_orphaning(obj: Obj) -> bool:
    meta = obj["metadata"]
    return "deletionTimestamp" in meta and ORPHAN in (meta.get("finalizers") or [])
