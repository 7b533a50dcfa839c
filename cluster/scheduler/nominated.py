"""Pods that wait on a node for their victims to go: their room is kept from pods of lower or equal priority. Pure.

Requests are subtracted as arrays, one per priority; pods whose rules reach beyond requests (ports, affinity) are
placed for the length of one look (`phantoms`). Source: kube-scheduler's RunFilterPluginsWithNominatedPods.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.shape import PodShape


@dataclass(frozen=True, slots=True)
class Nomination:
    uid: str
    node: str
    shape: PodShape
    priority: int


class Nominations:
    def __init__(self) -> None:
        self._by_uid: dict[str, Nomination] = {}
        self._sums: dict[int, Floats] = {}
        self._version = -1

    def __len__(self) -> int:
        return len(self._by_uid)

    def __contains__(self, uid: str) -> bool:
        return uid in self._by_uid

    def node_of(self, uid: str) -> str:
        known = self._by_uid.get(uid)
        return known.node if known else ""

    def set(self, uid: str, node: str, shape: PodShape, priority: int) -> None:
        if self.node_of(uid) != node:
            self._by_uid[uid] = Nomination(uid, node, shape, priority)
            self._sums.clear()

    def remove(self, uid: str) -> bool:
        if uid not in self._by_uid:
            return False
        self._sums.clear()
        del self._by_uid[uid]
        return True

    def on(self, node: str, below: int) -> list[str]:
        """Nominated to the node with a priority lower than `below`: they lose it to a more important pod."""
        return [n.uid for n in self._by_uid.values() if n.node == node and n.priority < below]

    def free(self, columns: NodeColumns, priority: int, uid: str) -> Floats:
        """What rows have left for a pod of that priority; its own nomination does not count against it."""
        if not self._by_uid:
            return columns.free
        self._refresh(columns)
        free = columns.free
        for level, taken in self._sums.items():
            if level >= priority:
                free = free - taken
        own = self._by_uid.get(uid)
        row = columns.rows.get(own.node) if own else None
        if own is not None and row is not None and own.priority >= priority:
            free[:, row] += columns.request_vector(own.shape)
        return free

    def _refresh(self, columns: NodeColumns) -> None:
        current = self._version == columns.version
        if self._sums and current and all(s.shape == columns.free.shape for s in self._sums.values()):
            return
        self._version = columns.version
        self._sums.clear()
        for one in self._by_uid.values():
            columns.request_vector(one.shape)  # may add a resource, before arrays are made
        for one in self._by_uid.values():
            row = columns.rows.get(one.node)
            if row is not None:
                taken = self._sums.setdefault(one.priority, np.zeros_like(columns.free))
                taken[:, row] += columns.request_vector(one.shape)

    def related(self, shape: PodShape, priority: int, uid: str) -> list[Nomination]:
        """Those whose presence may matter to the shape in more than requests."""
        own = bool(shape.host_ports or shape.pod_affinity or shape.spread or shape.disks)
        return [
            n
            for n in self._by_uid.values()
            if n.uid != uid and n.priority >= priority and (own or n.shape.pod_affinity)
        ]


@contextmanager
def phantoms(columns: NodeColumns, nominations: list[Nomination]) -> Iterator[None]:
    """The nominated pods as if they were there already."""
    placed = [n for n in nominations if not columns.is_placed(n.uid)]
    for one in placed:
        columns.place_pod(one.uid, one.node, one.shape)
    try:
        yield
    finally:
        for one in placed:
            columns.remove_pod(one.uid)
