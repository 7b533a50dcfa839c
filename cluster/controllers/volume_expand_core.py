"""What to do for a claim that asks for more than its volume has: pure decisions of growing.

Pure. Source: KEP-284 and KEP-1790 (the external resizer's and the kubelet's parts of growing a volume).

  request > status.capacity                 -> Grow: the provider makes the disk larger, then the volume says so
  volume's capacity >= request, file system -> Hand over: FileSystemResizePending, the kubelet does the rest
  volume's capacity >= request, raw device  -> Finish: there is nothing in it that would have to grow
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from cluster.api.meta import rfc3339
from cluster.api.quantity import parse_quantity
from cluster.api.volumes import is_block
from cluster.machinery.client import Obj

RESIZING = "Resizing"
PENDING = "FileSystemResizePending"
PENDING_MESSAGE = "Waiting for user to (re-)start a pod to finish file system resize of volume on node."
Step = Literal["", "grow", "hand over", "finish"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes: what the claim asks for, what its status says there is, what the volume has."""

    request: Fraction
    status: Fraction
    volume: Fraction


def sizes(claim: Obj, volume: Obj) -> Sizes:
    return Sizes(
        _storage((claim["spec"].get("resources") or {}).get("requests")),
        _storage((claim.get("status") or {}).get("capacity")),
        _storage(volume["spec"].get("capacity")),
    )


def next_step(claim: Obj, volume: Obj, *, on_node: bool) -> Step:
    """`on_node`: the driver's volumes hold a file system that the kubelet has to grow."""
    size = sizes(claim, volume)
    status = claim.get("status") or {}
    if status.get("phase") != "Bound" or size.request <= size.status or "deletionTimestamp" in claim["metadata"]:
        return ""
    if size.volume < size.request:
        return "grow"
    if not on_node or is_block(volume):
        return "finish"
    return "" if any(c["type"] == PENDING for c in status.get("conditions") or ()) else "hand over"


def growing_status(claim: Obj, now: float) -> Obj:
    """The claim's status while the provider is at it."""
    return _with(claim, [_condition(RESIZING, now)], "ControllerResizeInProgress")


def pending_status(claim: Obj, now: float) -> Obj:
    """The claim's status once only the file system is left to grow."""
    return _with(claim, [_condition(PENDING, now) | {"message": PENDING_MESSAGE}], "NodeResizePending")


def finished_status(claim: Obj, volume: Obj) -> Obj:
    status = _with(claim, [], "")
    return status | {"capacity": {"storage": volume["spec"]["capacity"]["storage"]}}


def failed_status(claim: Obj, now: float, message: str) -> Obj:
    """It is tried again; until then the claim says why it did not work."""
    return _with(claim, [_condition(RESIZING, now) | {"message": message}], "ControllerResizeInProgress")


def _with(claim: Obj, conditions: Sequence[Obj], allocated: str) -> Obj:
    """The status with these conditions of growing instead of those it has; one that it has already keeps its time."""
    status = dict(claim.get("status") or {})
    old = {c["type"]: c for c in status.get("conditions") or ()}
    kept = [c for kind, c in old.items() if kind not in (RESIZING, PENDING)]
    fresh = [
        c | {"lastTransitionTime": old[c["type"]]["lastTransitionTime"]} if c["type"] in old else c for c in conditions
    ]
    status["conditions"] = [*kept, *fresh]
    if allocated:
        status["allocatedResources"] = {"storage": claim["spec"]["resources"]["requests"]["storage"]}
        status["allocatedResourceStatuses"] = {"storage": allocated}
    else:
        status.pop("allocatedResourceStatuses", None)
    if not status["conditions"]:
        del status["conditions"]
    return status


def _condition(kind: str, now: float) -> Obj:
    return {"type": kind, "status": "True", "lastTransitionTime": rfc3339(now)}


def _storage(amounts: Obj | None) -> Fraction:
    return parse_quantity((amounts or {}).get("storage", 0))
