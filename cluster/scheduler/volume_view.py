"""Claims, volumes, classes, and what nodes may attach, as informers show them; keeps the columns' attachments.

IO only through the informers' handlers. `changed(claims, plugins)` hears which claims (namespace/name) may attach
something else now, and which filters a change may satisfy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cluster.machinery.client import Obj
from cluster.machinery.informer import Informers
from cluster.scheduler.attachments import Volume
from cluster.scheduler.capacity import Room, largest_of
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.shape import PodShape
from cluster.scheduler.volumes import Storage, VolumeVerdict, attachable, check_claims, take

_CLAIMED = frozenset(("VolumeBinding", "VolumeZone", "NodeVolumeLimits"))
_ROOM = frozenset(("VolumeBinding",))
_LIMITS = frozenset(("NodeVolumeLimits",))
Changed = Callable[[Iterable[str], frozenset[str]], None]


class VolumeView:
    def __init__(self, informers: Informers, columns: NodeColumns, changed: Changed) -> None:
        self._columns = columns
        self._changed = changed
        self._claims = informers.of("persistentvolumeclaims")
        self._volumes = informers.of("persistentvolumes")
        self._classes = informers.of("storageclasses.storage.k8s.io")
        self._nodes = informers.of("csinodes.storage.k8s.io")
        self._attachments = informers.of("volumeattachments.storage.k8s.io")
        self._drivers = informers.of("csidrivers.storage.k8s.io")
        self._capacities = informers.of("csistoragecapacities.storage.k8s.io")
        self._rooms: dict[str, Room] = {}
        self._storage = Storage(self._claims.get, self._volumes.get, self._classes.get, self._volumes.items, self._room)

    def listen(self) -> None:
        self._attachments.add_index("volume", lambda one: [one["spec"]["source"].get("persistentVolumeName") or ""])
        self._capacities.add_index("class", lambda one: [one["storageClassName"]])
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self._on_volume)
        self._classes.add_handler(lambda _old, _new: self._changed((), _CLAIMED))
        self._nodes.add_handler(self._on_csi_node)
        self._attachments.add_handler(self._on_attachment)
        self._drivers.add_handler(lambda _old, _new: self._changed((), _ROOM))
        self._capacities.add_handler(self._on_capacity)

    # ---- what decisions ask

    def check(self, shape: PodShape) -> VolumeVerdict:
        return check_claims(shape.namespace, shape.claims, self._columns, self._storage)

    def attachable(self, shape: PodShape) -> tuple[Volume, ...]:
        return attachable(shape.namespace, shape.claims, self._storage)

    def take(self, namespace: str, claims: Iterable[str], node: str) -> tuple[dict[str, Obj], list[str]] | None:
        """See `volumes.take`; None, too, when one of the claims is gone."""
        found = [self._claims.get(namespace, name) for name in claims]
        known = [claim for claim in found if claim is not None]
        return take(known, node, self._columns, self._storage) if len(known) == len(found) else None

    def claim(self, namespace: str, name: str) -> Obj | None:
        return self._claims.get(namespace, name)

    def reserved(self, volume: Obj) -> None:
        """We wrote it: nobody else is to count on it, before the watch says so."""
        self._volumes.observe(volume)

    def _room(self, storage_class: Obj) -> Room | None:
        driver = self._drivers.get("", storage_class.get("provisioner", ""))
        if driver is None or not driver["spec"].get("storageCapacity"):
            return None
        name = storage_class["metadata"]["name"]
        if name not in self._rooms:
            self._rooms[name] = Room(self._capacities.by_index("class", name))
        return self._rooms[name]

    # ---- events

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        before, now = ((one or {"spec": {}})["spec"].get("volumeName") for one in (old, new))
        meta = (new or old or {})["metadata"]
        self._changed((f"{meta.get('namespace', '')}/{meta['name']}",) if before != now else (), _CLAIMED)

    def _on_volume(self, old: Obj | None, new: Obj | None) -> None:
        ref = (new or old or {})["spec"].get("claimRef") or {}
        for attachment in self._attachments.by_index("volume", (new or old or {})["metadata"]["name"]):
            self._on_attachment(None, attachment)
        self._changed((f"{ref.get('namespace', '')}/{ref['name']}",) if ref.get("name") else (), _CLAIMED)

    def _on_capacity(self, old: Obj | None, new: Obj | None) -> None:
        """Class and topology never change. Less room helps nobody, and drivers tell of each volume that they make."""
        self._rooms.pop((new or old or {})["storageClassName"], None)
        if new is not None and (old is None or largest_of(new) > largest_of(old)):
            self._changed((), _ROOM)

    def _on_csi_node(self, old: Obj | None, new: Obj | None) -> None:
        if self._columns.set_volume_limits((new or old or {})["metadata"]["name"], limits_of(new)):
            self._changed((), _LIMITS)

    def _on_attachment(self, old: Obj | None, new: Obj | None) -> None:
        one: dict[str, Any] = new or old or {}
        volume = self._attached(new) if new is not None else None
        self._columns.set_attached(one["metadata"]["name"], one["spec"]["nodeName"], volume)
        if new is None:
            self._changed((), _LIMITS)

    def _attached(self, attachment: Obj) -> Volume | None:
        spec = attachment["spec"]
        name = spec["source"].get("persistentVolumeName")
        volume = (self._volumes.get("", name) if name else None) or {
            "spec": spec["source"].get("inlineVolumeSpec") or {}
        }
        csi = volume["spec"].get("csi")
        return (csi["driver"], csi["volumeHandle"]) if csi else None


def limits_of(csi_node: Obj | None) -> dict[str, int]:
    """How many volumes of each driver the node takes; drivers that do not say are not in it."""
    drivers = ((csi_node or {}).get("spec") or {}).get("drivers") or ()
    counts = ((driver["name"], (driver.get("allocatable") or {}).get("count")) for driver in drivers)
    return {name: int(count) for name, count in counts if count is not None}
