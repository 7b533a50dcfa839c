"""Every node as a row of arrays. Pure; updated in place from events.

Invariants: `requested[row]` is the sum of the requests of all pods accounted to that row (bound or assumed), each pod
once; a row is in `rows` exactly while `alive[row]`. Label values, taint sets and resources are interned as small
integer codes, so that a filter is a comparison of arrays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.api.quantity import millis, units
from cluster.scheduler.shape import HostPort, PodShape

Taint = tuple[str, str, str]
"""(key, value, effect)."""

CPU, MEMORY, PODS = 0, 1, 2
_FIXED_RESOURCES = ("cpu", "memory", "pods", "ephemeral-storage")


@dataclass(slots=True)
class _Placed:
    row: int
    shape: PodShape


class LabelColumn:
    """One label key: a code for each row (-1: the node has no such label) and the values behind the codes."""

    def __init__(self, size: int) -> None:
        self.codes: NDArray[np.int32] = np.full(size, -1, dtype=np.int32)
        self.values: dict[str, int] = {}

    def code(self, value: str) -> int:
        """The code of a value on some node; -2 when no node ever had it, which equals no row."""
        return self.values.get(value, -2)

    def set(self, row: int, value: str) -> None:
        self.codes[row] = self.values.setdefault(value, len(self.values))

    def numeric(self) -> NDArray[np.float64]:
        """Each row's value as a number, NaN where it is absent or no integer (operators Gt and Lt)."""
        table = np.full(len(self.values) + 1, np.nan)
        for value, code in self.values.items():
            if value.lstrip("-").isdigit():
                table[code] = float(value)
        return table[self.codes]


class NodeColumns:
    """The scheduler's picture of the cluster: O(1) numpy work per pod placed or node changed."""

    def __init__(self, size: int = 64) -> None:
        self.rows: dict[str, int] = {}
        self.names: list[str] = [""] * size
        self.alive: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.unschedulable: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.resources: dict[str, int] = {name: i for i, name in enumerate(_FIXED_RESOURCES)}
        self.allocatable: NDArray[np.int64] = np.zeros((size, len(self.resources)), dtype=np.int64)
        self.requested: NDArray[np.int64] = np.zeros((size, len(self.resources)), dtype=np.int64)
        self.scored: NDArray[np.int64] = np.zeros((size, 2), dtype=np.int64)
        self.labels: dict[str, LabelColumn] = {}
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self._taint_codes: dict[tuple[Taint, ...], int] = {(): 0}
        self.taints: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        self.host_ports: dict[tuple[str, int], list[tuple[int, HostPort]]] = {}
        self.owners: dict[str, Counter[int]] = {}
        self._placed: dict[str, _Placed] = {}
        self._free: list[int] = list(range(size - 1, -1, -1))

    @property
    def size(self) -> int:
        return len(self.names)

    def set_node(self, node: dict[str, Any]) -> None:
        """Add or update one node from its API object."""
        name = node["metadata"]["name"]
        row = self.rows.get(name)
        if row is None:
            row = self._take_row(name)
        spec, status = node.get("spec", {}), node.get("status", {})
        self.unschedulable[row] = bool(spec.get("unschedulable"))
        self._set_allocatable(row, status.get("allocatable") or {})
        self._set_labels(row, node["metadata"].get("labels") or {})
        taints = tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ())
        code = self._taint_codes.setdefault(taints, len(self.taint_sets))
        if code == len(self.taint_sets):
            self.taint_sets.append(taints)
        self.taints[row] = code

    def remove_node(self, name: str) -> None:
        """Forget a node and what is placed on it; unknown names are ignored."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        for uid in [uid for uid, placed in self._placed.items() if placed.row == row]:
            self.remove_pod(uid)
        self.alive[row] = False
        self.names[row] = ""
        self.allocatable[row] = 0
        self._set_labels(row, {})
        self._free.append(row)

    def place_pod(self, uid: str, node: str, shape: PodShape) -> None:
        """Account a bound or assumed pod to its node; again with the same node changes nothing."""
        row = self.rows.get(node)
        placed = self._placed.get(uid)
        if placed is not None:
            if placed.row == row:
                return
            self.remove_pod(uid)
        if row is None:
            return
        self._placed[uid] = _Placed(row, shape)
        self._account(row, shape, 1)
        for port in shape.host_ports:
            self.host_ports.setdefault((port.protocol, port.port), []).append((row, port))
        if shape.owner_uid:
            self.owners.setdefault(shape.owner_uid, Counter())[row] += 1

    def remove_pod(self, uid: str) -> bool:
        """Take a pod's requests off its node; False when it was on none."""
        placed = self._placed.pop(uid, None)
        if placed is None:
            return False
        row, shape = placed.row, placed.shape
        self._account(row, shape, -1)
        for port in shape.host_ports:
            self.host_ports[(port.protocol, port.port)].remove((row, port))
        if shape.owner_uid:
            counts = self.owners[shape.owner_uid]
            counts[row] -= 1
            if counts[row] <= 0:
                del counts[row]
            if not counts:
                del self.owners[shape.owner_uid]
        return True

    def is_placed(self, uid: str) -> bool:
        return uid in self._placed

    def request_vector(self, shape: PodShape) -> NDArray[np.int64]:
        """The requests as one row over the resource columns, the pod itself counting 1 in `pods`."""
        for name, _ in shape.requests:
            self._resource(name)
        vector = np.zeros(len(self.resources), dtype=np.int64)
        vector[PODS] = 1
        for name, amount in shape.requests:
            vector[self.resources[name]] = amount
        return vector

    def _account(self, row: int, shape: PodShape, sign: int) -> None:
        self.requested[row] += sign * self.request_vector(shape)
        self.scored[row] += sign * np.asarray(shape.scoring_requests, dtype=np.int64)

    def _resource(self, name: str) -> int:
        column = self.resources.get(name)
        if column is None:
            column = self.resources[name] = len(self.resources)
            grown = ((0, 0), (0, 1))
            self.allocatable = np.pad(self.allocatable, grown)
            self.requested = np.pad(self.requested, grown)
        return column

    def _set_allocatable(self, row: int, allocatable: dict[str, Any]) -> None:
        columns = {self._resource(name): millis(v) if name == "cpu" else units(v) for name, v in allocatable.items()}
        self.allocatable[row] = 0
        for column, amount in columns.items():
            self.allocatable[row, column] = amount

    def _set_labels(self, row: int, labels: dict[str, str]) -> None:
        for key, column in self.labels.items():
            if key not in labels:
                column.codes[row] = -1
        for key, value in labels.items():
            column = self.labels.get(key) or self.labels.setdefault(key, LabelColumn(self.size))
            column.set(row, value)

    def _take_row(self, name: str) -> int:
        if not self._free:
            self._grow()
        row = self._free.pop()
        self.rows[name] = row
        self.names[row] = name
        self.alive[row] = True
        return row

    def _grow(self) -> None:
        old = self.size
        more = old
        self.names.extend([""] * more)
        self.alive = np.pad(self.alive, (0, more))
        self.unschedulable = np.pad(self.unschedulable, (0, more))
        self.taints = np.pad(self.taints, (0, more))
        self.allocatable = np.pad(self.allocatable, ((0, more), (0, 0)))
        self.requested = np.pad(self.requested, ((0, more), (0, 0)))
        self.scored = np.pad(self.scored, ((0, more), (0, 0)))
        for column in self.labels.values():
            column.codes = np.pad(column.codes, (0, more), constant_values=-1)
        self._free.extend(range(old + more - 1, old - 1, -1))
