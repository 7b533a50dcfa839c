"""Every node as a row of arrays. Pure; updated in place from events.

Amounts are float64 holding whole numbers (exact below 2**53: 9 PB of memory), because dividing them is what scoring
does. Label values, taint sets and resources are interned as small integer codes, so that a filter is a comparison of
arrays.

Invariants: `requested[:, row]` is the sum of the requests of all pods accounted to that row (bound or assumed), each
pod once; `free` is `allocatable - requested`; a row is in `rows` exactly while `alive[row]`; `version` grows with
every change of a node's own data (labels, taints, capacity, images), never with a placement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.api.pods import amount
from cluster.scheduler.attachments import Attachments, Volume
from cluster.scheduler.relations import Relations
from cluster.scheduler.shape import HostPort, PodShape

Taint = tuple[str, str, str]
"""(key, value, effect)."""
Floats = NDArray[np.float64]

CPU, MEMORY, PODS = 0, 1, 2
_MEMO_SIZE = 2048
_T = TypeVar("_T")
_FIXED_RESOURCES = ("cpu", "memory", "pods", "ephemeral-storage")


@dataclass(slots=True)
class Placed:
    """A pod on a row; `priority` and `started` (arrival order) matter when something more important wants the room;
    `volumes` are those that must be attached there."""

    uid: str
    key: tuple[str, str]
    row: int
    shape: PodShape
    priority: int = 0
    started: float = 0.0
    volumes: tuple[Volume, ...] = ()


class LabelColumn:
    """One label key: a code for each row (-1: the node has no such label) and the values behind the codes."""

    def __init__(self, size: int) -> None:
        self.codes: NDArray[np.intp] = np.full(size, -1, dtype=np.intp)
        self.values: dict[str, int] = {}
        self.version = 0

    def code(self, value: str) -> int:
        """The code of a value on some node; -2 when no node ever had it, which equals no row."""
        return self.values.get(value, -2)

    def set(self, row: int, value: str) -> None:
        code = self.values.setdefault(value, len(self.values))
        if self.codes[row] != code:
            self.codes[row] = code
            self.version += 1

    def clear(self, row: int) -> None:
        if self.codes[row] != -1:
            self.codes[row] = -1
            self.version += 1

    def numeric(self) -> Floats:
        """Each row's value as a number, NaN where it is absent or no integer (operators Gt and Lt)."""
        table = np.full(len(self.values) + 1, np.nan)
        for value, code in self.values.items():
            if value.removeprefix("-").isdigit():
                table[code] = float(value)
        return table[self.codes]


class NodeColumns:
    """The scheduler's picture of the cluster: O(1) numpy work per pod placed or node changed."""

    def __init__(self, size: int = 64, hard_pod_affinity_weight: int = 1) -> None:
        self.rows: dict[str, int] = {}
        self.names: list[str] = [""] * size
        self.version = 0
        self.alive: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.unschedulable: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
        self.resources: dict[str, int] = {name: i for i, name in enumerate(_FIXED_RESOURCES)}
        self.allocatable: Floats = np.zeros((len(self.resources), size))
        self.requested: Floats = np.zeros((len(self.resources), size))
        self.free: Floats = np.zeros((len(self.resources), size))
        self.scored: Floats = np.zeros((2, size))
        self.labels: dict[str, LabelColumn] = {}
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self._taint_codes: dict[tuple[Taint, ...], int] = {(): 0}
        self.taints: NDArray[np.intp] = np.zeros(size, dtype=np.intp)
        self.images: dict[str, dict[int, int]] = {}
        self._row_images: dict[int, tuple[str, ...]] = {}
        self.host_ports: dict[tuple[str, int], list[tuple[int, HostPort]]] = {}
        self.disks: dict[str, list[tuple[int, bool]]] = {}
        self.claims: Counter[tuple[str, str]] = Counter()
        self.by_priority: dict[int, Floats] = {}
        self.placed: dict[str, Placed] = {}
        self.on_row: dict[int, dict[str, Placed]] = {}
        self.attachments = Attachments(size)
        self.relations = Relations(size, hard_pod_affinity_weight)
        self._memo: dict[Hashable, Any] = {}
        self._memo_version = -1
        self._vectors: dict[tuple[tuple[str, int], ...], Floats] = {}
        self._free_rows: list[int] = list(range(size - 1, -1, -1))

    @property
    def size(self) -> int:
        return len(self.names)

    def label(self, key: str) -> LabelColumn:
        """The column of a key, made empty when no node has it yet."""
        column = self.labels.get(key)
        if column is None:
            column = self.labels[key] = LabelColumn(self.size)
        return column

    def memo(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """`make()`, remembered until a node's own data changes: for what follows from nodes and a shape alone."""
        if self._memo_version != self.version or len(self._memo) > _MEMO_SIZE:
            self._memo.clear()
            self._memo_version = self.version
        if key in self._memo:
            found: _T = self._memo[key]
            return found
        made = self._memo[key] = make()
        return made

    # ---- nodes

    def set_node(self, node: dict[str, Any]) -> None:
        """Add or update one node from its API object."""
        name = node["metadata"]["name"]
        row = self.rows.get(name)
        if row is None:
            row = self._take_row(name)
        spec, status = node.get("spec", {}), node.get("status", {})
        self.version += 1
        self.unschedulable[row] = bool(spec.get("unschedulable"))
        self._set_allocatable(row, status.get("allocatable") or {})
        self._set_labels(row, node["metadata"].get("labels") or {})
        taints = tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ())
        code = self._taint_codes.setdefault(taints, len(self.taint_sets))
        if code == len(self.taint_sets):
            self.taint_sets.append(taints)
        self.taints[row] = code
        self._set_images(row, status.get("images") or ())

    def remove_node(self, name: str) -> None:
        """Forget a node and what is placed on it; unknown names are ignored."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        for uid in list(self.on_row.get(row, ())):
            self.remove_pod(uid)
        self.version += 1
        self.alive[row] = False
        self.names[row] = ""
        self.allocatable[:, row] = 0
        self.free[:, row] = 0
        self.taints[row] = 0
        self._set_labels(row, {})
        self._set_images(row, ())
        self.attachments.clear_row(name, row)
        self._free_rows.append(row)

    def set_volume_limits(self, node: str, limits: Mapping[str, int]) -> bool:
        """How many volumes of each driver a node takes (its CSINode); whether that is news."""
        return self.attachments.set_limits(node, self.rows.get(node), limits)

    def set_attached(self, name: str, node: str, volume: Volume | None) -> None:
        """What a VolumeAttachment says; None once it is gone."""
        self.attachments.attached(name, node, self.rows.get(node), volume)

    # ---- pods

    def place_pod(
        self,
        uid: str,
        node: str,
        shape: PodShape,
        *,
        key: tuple[str, str] = ("", ""),
        priority: int = 0,
        started: float = 0.0,
        volumes: tuple[Volume, ...] = (),
    ) -> None:
        """Account a bound or assumed pod to its node; what is known already changes nothing."""
        row = self.rows.get(node)
        known = self.placed.get(uid)
        if known is not None:
            if known.row == row and (known.priority, known.shape, known.volumes) == (priority, shape, volumes):
                known.started = started or known.started
                return
            self.remove_pod(uid)
        if row is None:
            return
        placed = self.placed[uid] = Placed(uid, key, row, shape, priority, started, volumes)
        self.on_row.setdefault(row, {})[uid] = placed
        self._account(placed, 1)
        for port in shape.host_ports:
            self.host_ports.setdefault((port.protocol, port.port), []).append((row, port))
        for claim in shape.claims:
            self.claims[(shape.namespace, claim)] += 1
        for disk, read_only in shape.disks:
            self.disks.setdefault(disk, []).append((row, read_only))
        if volumes:
            self.attachments.hold(row, volumes)

    def remove_pod(self, uid: str) -> bool:
        """Take a pod's requests off its node; False when it was on none."""
        placed = self.placed.pop(uid, None)
        if placed is None:
            return False
        row, shape = placed.row, placed.shape
        del self.on_row[row][uid]
        self._account(placed, -1)
        for port in shape.host_ports:
            taken = self.host_ports[(port.protocol, port.port)]
            taken.remove((row, port))
            if not taken:
                del self.host_ports[(port.protocol, port.port)]
        for claim in shape.claims:
            self.claims[(shape.namespace, claim)] -= 1
            if not self.claims[(shape.namespace, claim)]:
                del self.claims[(shape.namespace, claim)]
        for disk, read_only in shape.disks:
            self.disks[disk].remove((row, read_only))
            if not self.disks[disk]:
                del self.disks[disk]
        if placed.volumes:
            self.attachments.release(row, placed.volumes)
        return True

    def put_back(self, placed: Placed) -> None:
        """What was taken off for the length of a look."""
        self.place_pod(
            placed.uid,
            self.names[placed.row],
            placed.shape,
            key=placed.key,
            priority=placed.priority,
            started=placed.started,
            volumes=placed.volumes,
        )

    def is_placed(self, uid: str) -> bool:
        return uid in self.placed

    def request_vector(self, shape: PodShape) -> Floats:
        """The requests as one number per resource, the pod itself counting 1 in `pods`. Shared: do not change."""
        vector = self._vectors.get(shape.requests)
        if vector is None or len(vector) != len(self.resources):
            for name, _ in shape.requests:
                self._resource(name)
            vector = np.zeros(len(self.resources))
            vector[PODS] = 1
            for name, wanted in shape.requests:
                vector[self.resources[name]] = wanted
            if len(self._vectors) > 10_000:
                self._vectors.clear()
            self._vectors[shape.requests] = vector
        return vector

    def _account(self, placed: Placed, sign: int) -> None:
        row, shape = placed.row, placed.shape
        vector = self.request_vector(shape)
        if sign > 0:
            self.requested[:, row] += vector
            self.free[:, row] -= vector
        else:
            self.requested[:, row] -= vector
            self.free[:, row] += vector
        level = self.by_priority.get(placed.priority)
        if level is None or level.shape != self.free.shape:
            level = self._priority_level(placed.priority)
        level[:, row] += sign * vector
        self.scored[0, row] += sign * shape.scoring_requests[0]
        self.scored[1, row] += sign * shape.scoring_requests[1]
        self.relations.account(self, row, shape, sign)

    def _priority_level(self, priority: int) -> Floats:
        """The requests of all pods of one priority, per row; as wide as the other arrays."""
        old = self.by_priority.get(priority)
        level = self.by_priority[priority] = np.zeros_like(self.free)
        if old is not None:
            level[: old.shape[0], : old.shape[1]] = old
        return level

    def below(self, priority: int) -> Floats:
        """What pods of lower priority hold, per row."""
        total = np.zeros_like(self.free)
        for level in [p for p in self.by_priority if p < priority]:
            part = self.by_priority[level]
            total += part if part.shape == total.shape else self._priority_level(level)
        return total

    # ---- one row's data

    def _resource(self, name: str) -> int:
        column = self.resources.get(name)
        if column is None:
            column = self.resources[name] = len(self.resources)
            grown = ((0, 1), (0, 0))
            self.allocatable = np.pad(self.allocatable, grown)
            self.requested = np.pad(self.requested, grown)
            self.free = np.pad(self.free, grown)
        return column

    def _set_allocatable(self, row: int, allocatable: dict[str, Any]) -> None:
        columns = {self._resource(name): amount(name, v) for name, v in allocatable.items()}
        self.allocatable[:, row] = 0
        for column, capacity in columns.items():
            self.allocatable[column, row] = capacity
        self.free[:, row] = self.allocatable[:, row] - self.requested[:, row]

    def _set_labels(self, row: int, labels: dict[str, str]) -> None:
        for key, column in self.labels.items():
            if key not in labels:
                column.clear(row)
        for key, value in labels.items():
            self.label(key).set(row, value)

    def _set_images(self, row: int, images: Any) -> None:
        """`images` as in a node's status: every name of an image has its size."""
        for name in self._row_images.pop(row, ()):
            self.images[name].pop(row, None)
            if not self.images[name]:
                del self.images[name]
        names: list[str] = []
        for image in images:
            for name in image.get("names") or ():
                names.append(name)
                self.images.setdefault(name, {})[row] = int(image.get("sizeBytes") or 0)
        if names:
            self._row_images[row] = tuple(names)

    def _take_row(self, name: str) -> int:
        if not self._free_rows:
            self._grow()
        row = self._free_rows.pop()
        self.rows[name] = row
        self.names[row] = name
        self.alive[row] = True
        self.attachments.add_row(name, row)
        return row

    def _grow(self) -> None:
        old = self.size
        more = old
        self.names.extend([""] * more)
        self.alive = np.pad(self.alive, (0, more))
        self.unschedulable = np.pad(self.unschedulable, (0, more))
        self.taints = np.pad(self.taints, (0, more))
        wider = ((0, 0), (0, more))
        self.allocatable = np.pad(self.allocatable, wider)
        self.requested = np.pad(self.requested, wider)
        self.free = np.pad(self.free, wider)
        self.scored = np.pad(self.scored, wider)
        for column in self.labels.values():
            column.codes = np.pad(column.codes, (0, more), constant_values=-1)
            column.version += 1
        self.relations.grow(old + more)
        self.attachments.grow(old + more)
        self._free_rows.extend(range(old + more - 1, old - 1, -1))
