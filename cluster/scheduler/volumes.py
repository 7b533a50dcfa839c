"""What a pod's PersistentVolumeClaims say about where it may run, and which volumes they take there. Pure.

Source: kube-scheduler plugins VolumeBinding, VolumeZone, VolumeRestrictions (ReadWriteOncePod), NodeVolumeLimits. A
claim bound to a volume narrows the nodes by the volume's node affinity and zone labels. An unbound claim of a class
with WaitForFirstConsumer waits for us: where a volume that exists would do, we reserve one that the chosen node
reaches; else we write the node on the claim, and a volume is made for it, where its driver has room (`capacity.py`).
Other unbound claims keep the pod waiting.

Claims of one pod never count on the same volume: from the smallest claim on, each takes the smallest volume that will
do, on every row at once (`_servable`), and in the same order on the row that was chosen (`take`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cluster.api.pods import amount
from cluster.api.selectors import from_label_selector
from cluster.scheduler.attachments import Volume
from cluster.scheduler.capacity import Room
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.filters import Mask, match_term
from cluster.scheduler.shape import canonical

NO_PROVISIONER = "kubernetes.io/no-provisioner"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
_ZONE_LABELS = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)
_CONFLICT = "node(s) had volume node affinity conflict"
_NOTHING_TO_BIND = "node(s) didn't find available persistent volumes to bind"
_NO_SPACE = "node(s) did not have enough free storage"
_GONE = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
_NO_ZONE = "node(s) had no available volume zone"
_IN_USE = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
Claim = dict[str, Any]
PersistentVolume = dict[str, Any]
Lookup = Callable[[str, str], dict[str, Any] | None]


class Confined(NamedTuple):
    """The only nodes that a plugin leaves, and what it says of the others. `resolvable`: removing pods may help."""

    plugin: str
    reason: str
    names: frozenset[str]
    resolvable: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """Where claims, volumes and classes are looked up; `room`, by a class: None when its driver does not say what is
    left."""

    claims: Lookup
    volumes: Lookup
    classes: Lookup
    all_volumes: Callable[[], Sequence[PersistentVolume]] = tuple
    room: Callable[[dict[str, Any]], Room | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class VolumeVerdict:
    """`refusal` keeps the pod waiting; `confined` leaves some nodes only; `undecided` claims want a node.

    `provisioning`: all that is missing is a volume that is being made or bound for a claim; nothing to say or decide.
    """

    refusal: str = ""
    confined: tuple[Confined, ...] = ()
    undecided: tuple[str, ...] = ()
    provisioning: bool = False


def _class_of(claim: Claim, storage: Storage) -> dict[str, Any]:
    return storage.classes("", claim["spec"].get("storageClassName") or "") or {}


def _made_by_hand(storage_class: dict[str, Any]) -> bool:
    return bool(storage_class.get("provisioner") == NO_PROVISIONER)


def _matching(columns: NodeColumns, terms: Sequence[dict[str, Any]]) -> Mask:
    """The rows that match one of the terms; remembered until a node changes."""

    def make() -> Mask:
        mask = np.zeros(columns.size, dtype=np.bool_)
        for term in terms:
            mask |= match_term(columns, term)
        return mask & columns.alive

    return columns.memo(("matching", canonical(terms)), make)


def _names(columns: NodeColumns, mask: Mask) -> frozenset[str]:
    return columns.memo(("names", mask.tobytes()), lambda: frozenset(columns.names[r] for r in np.flatnonzero(mask)))


def _reach(volume: PersistentVolume, columns: NodeColumns) -> Mask:
    """The rows from which a volume can be had."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return _matching(columns, required["nodeSelectorTerms"]) if required else columns.alive


def _in_zone(volume: PersistentVolume, columns: NodeColumns) -> Mask | None:
    """Rows in the volume's zone and region, by its labels (several values are joined by `__`), and rows that do not say
    where they are; None: anywhere."""
    labels = volume["metadata"].get("labels") or {}
    wanted = {key: labels[key].split("__") for key in _ZONE_LABELS if labels.get(key)}
    if not wanted:
        return None
    present = [columns.label(key).codes >= 0 for key in _ZONE_LABELS]
    expressions = [{"key": key, "operator": "In", "values": values} for key, values in wanted.items()]
    silent: Mask = columns.alive & ~np.logical_or.reduce(present)
    return _matching(columns, [{"matchExpressions": expressions}]) | silent


def _size(claim: Claim) -> int:
    return amount("storage", ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", 0))


def _capacity(volume: PersistentVolume) -> int:
    return amount("storage", (volume["spec"].get("capacity") or {}).get("storage", 0))


def _is_for(volume: PersistentVolume, claim: Claim) -> bool:
    """Whether the volume is reserved for the claim: the controller binds them, wherever its pod goes."""
    ref, meta = volume["spec"].get("claimRef") or {}, claim["metadata"]
    if (ref.get("namespace"), ref.get("name")) != (meta.get("namespace"), meta["name"]):
        return False
    return not ref.get("uid") or bool(ref["uid"] == meta.get("uid"))


def _offers(claim: Claim, volume: PersistentVolume) -> bool:
    """Whether an unclaimed volume would do for a claim."""
    spec, wanted = volume["spec"], claim["spec"]
    if "deletionTimestamp" in volume["metadata"] or spec.get("claimRef"):
        return False
    if (volume.get("status") or {}).get("phase", "Available") != "Available":
        return False
    if spec.get("storageClassName", "") != (wanted.get("storageClassName") or ""):
        return False
    if (spec.get("volumeMode") or "Filesystem") != (wanted.get("volumeMode") or "Filesystem"):
        return False
    if not set(wanted.get("accessModes") or ()) <= set(spec.get("accessModes") or ()):
        return False
    selector = wanted.get("selector")
    if selector and not from_label_selector(selector).matches(volume["metadata"].get("labels") or {}):
        return False
    return _capacity(volume) >= _size(claim)


def _in_topologies(storage_class: dict[str, Any], columns: NodeColumns) -> Mask:
    """The rows of a class's allowedTopologies."""
    terms = storage_class.get("allowedTopologies")
    if not terms:
        return columns.alive
    selectors = [
        {"matchExpressions": [e | {"operator": "In"} for e in term.get("matchLabelExpressions") or ()]}
        for term in terms
    ]
    return _matching(columns, selectors)


def _in_order(claims: Sequence[Claim], storage: Storage) -> tuple[list[Claim], list[PersistentVolume]]:
    """Unbound claims, and the free volumes that would do for one of them, in the order in which they are matched."""
    free = [v for v in storage.all_volumes() if any(_offers(claim, v) for claim in claims)]
    free.sort(key=lambda v: (_capacity(v), v["metadata"]["name"]))
    return sorted(claims, key=_size), free


def _unserved(claims: Sequence[Claim], columns: NodeColumns, storage: Storage) -> tuple[Mask, Mask]:
    """The rows where one of the claims finds no volume of its own and none may be made for it; and those of the others
    where there is no room to make one."""
    wanting, free = _in_order(claims, storage)
    used: dict[str, Mask] = {}
    unserved, full = np.zeros((2, columns.size), dtype=np.bool_)
    for claim in wanting:
        storage_class = _class_of(claim, storage)
        found = np.zeros(columns.size, dtype=np.bool_)
        for volume in free:
            if not _offers(claim, volume):
                continue
            name, takes = volume["metadata"]["name"], _reach(volume, columns) & ~found
            if name in used:
                takes &= ~used[name]
            if len(wanting) > 1:
                used[name] = used[name] | takes if name in used else takes
            found |= takes
        made = _in_topologies(storage_class, columns)
        room = storage.room(storage_class)
        unserved |= ~(full | found) if _made_by_hand(storage_class) else ~(full | found | made)
        if room is not None:
            full |= ~(unserved | found | room.holds(_size(claim), columns))
    return unserved & columns.alive, full & columns.alive


def take(
    claims: Sequence[Claim], node: str, columns: NodeColumns, storage: Storage
) -> tuple[dict[str, PersistentVolume], list[str]] | None:
    """What is to be done for unbound claims on the chosen node: the volumes to reserve, by claim, and the claims that a
    volume is made for. None when a volume that was counted on is taken by now, or the node is gone."""
    row = columns.rows.get(node)
    if row is None:
        return None
    wanting, free = _in_order(claims, storage)
    free = [v for v in free if _reach(v, columns)[row]]
    taken: dict[str, PersistentVolume] = {}
    made: list[str] = []
    for claim in wanting:
        found = next((i for i, v in enumerate(free) if _offers(claim, v)), None)
        if found is not None:
            taken[claim["metadata"]["name"]] = free.pop(found)
        elif _made_by_hand(_class_of(claim, storage)):
            return None
        else:
            made.append(claim["metadata"]["name"])
    return taken, made


def attachable(namespace: str, names: Sequence[str], storage: Storage) -> tuple[Volume, ...]:
    """What a pod's claims attach to its node: of a claim without a volume, what its class's driver will make."""
    found: list[Volume] = []
    for name in names:
        claim = storage.claims(namespace, name)
        if claim is None:
            continue
        volume_name = claim["spec"].get("volumeName")
        if not volume_name:
            provisioner = _class_of(claim, storage).get("provisioner")
            if provisioner:
                found.append((provisioner, f"{namespace}/{name}"))
            continue
        csi = ((storage.volumes("", volume_name) or {}).get("spec") or {}).get("csi")
        if csi:
            found.append((csi["driver"], csi["volumeHandle"]))
    return tuple(found)


def check_claims(namespace: str, names: Sequence[str], columns: NodeColumns, storage: Storage) -> VolumeVerdict:
    """The verdict over all claims of one pod."""
    confined: list[Confined] = []
    unbound: list[Claim] = []
    for name in names:
        claim = storage.claims(namespace, name)
        if claim is None:
            return VolumeVerdict(f'persistentvolumeclaim "{name}" not found')
        if claim["metadata"].get("deletionTimestamp"):
            return VolumeVerdict(f'persistentvolumeclaim "{name}" is being deleted')
        if "ReadWriteOncePod" in (claim["spec"].get("accessModes") or ()) and columns.claims.get((namespace, name)):
            confined.append(Confined("VolumeRestrictions", _IN_USE, frozenset(), resolvable=True))
        volume_name = claim["spec"].get("volumeName")
        if volume_name and (claim.get("status") or {}).get("phase") == "Bound":
            confined += _bound(storage.volumes("", volume_name), columns)
        elif _class_of(claim, storage).get("volumeBindingMode") == "WaitForFirstConsumer":
            unbound.append(claim)
        else:
            return VolumeVerdict("pod has unbound immediate PersistentVolumeClaims")
    if not unbound:
        return VolumeVerdict("", tuple(confined))
    for reason, lacking in zip((_NOTHING_TO_BIND, _NO_SPACE), _unserved(unbound, columns, storage), strict=True):
        if lacking.any():
            confined.append(Confined("VolumeBinding", reason, _names(columns, columns.alive & ~lacking)))
    waits = any(_on_its_way(claim, columns, storage.all_volumes()) for claim in unbound)
    return VolumeVerdict("", tuple(confined), tuple(c["metadata"]["name"] for c in unbound), waits)


def _bound(volume: PersistentVolume | None, columns: NodeColumns) -> list[Confined]:
    """Where a claim's own volume lets the pod run."""
    if volume is None:
        return [Confined("VolumeBinding", _GONE, frozenset())]
    found: list[Confined] = []
    if (volume["spec"].get("nodeAffinity") or {}).get("required"):
        found.append(Confined("VolumeBinding", _CONFLICT, _names(columns, _reach(volume, columns))))
    zone = _in_zone(volume, columns)
    if zone is not None:
        found.append(Confined("VolumeZone", _NO_ZONE, _names(columns, zone)))
    return found


def _on_its_way(claim: Claim, columns: NodeColumns, volumes: Sequence[PersistentVolume]) -> bool:
    """Whether a node was chosen before, or a volume reserved: what is missing is the controller's to do."""
    if claim["spec"].get("volumeName"):
        return True
    chosen = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
    return chosen in columns.rows or any(_is_for(volume, claim) for volume in volumes)
