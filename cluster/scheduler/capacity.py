"""How large a volume CSI drivers can still make, and near which nodes (KEP-1472). Pure.

A driver whose CSIDriver says `storageCapacity` publishes CSIStorageCapacities: of a class, in a topology, so much. A
claim that a volume would be made for then goes only where one of them has room for it: `maximumVolumeSize` where it
says so, else `capacity`; one without a topology is out of reach of every node. Drivers that say nothing are trusted.

Drivers of local disks publish one for each node, with a topology of one label: those are one lookup for all rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.api.pods import amount
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.filters import Mask, match_term

Bytes = NDArray[np.int64]


class Room:
    """What the CSIStorageCapacities of one class say, made ready to be asked for all rows at once. Never changed."""

    def __init__(self, capacities: Iterable[dict[str, Any]]) -> None:
        self._by_label: dict[str, dict[str, int]] = {}
        self._elsewhere: list[tuple[dict[str, Any], int]] = []
        self._everywhere = -1
        for capacity in capacities:
            topology, largest = capacity.get("nodeTopology"), largest_of(capacity)
            if topology is None or largest < 0:
                continue
            labels, expressions = topology.get("matchLabels") or {}, topology.get("matchExpressions") or []
            if not labels and not expressions:
                self._everywhere = max(self._everywhere, largest)
            elif len(labels) == 1 and not expressions:
                ((key, value),) = labels.items()
                values = self._by_label.setdefault(key, {})
                values[value] = max(values.get(value, -1), largest)
            else:
                pairs = [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]
                self._elsewhere.append(({"matchExpressions": [*pairs, *expressions]}, largest))

    def holds(self, size_bytes: int, columns: NodeColumns) -> Mask:
        """The rows near which a volume of this size can be made."""
        return columns.memo(("room", self), lambda: self._rows(columns)) >= size_bytes

    def _rows(self, columns: NodeColumns) -> Bytes:
        """The largest volume near each row; -1 for none at all."""
        largest = np.full(columns.size, self._everywhere, dtype=np.int64)
        for key, values in self._by_label.items():
            column = columns.label(key)
            table = np.full(len(column.values) + 1, -1, dtype=np.int64)  # the last is that of rows without the label
            for value, room in values.items():
                if (code := column.code(value)) >= 0:
                    table[code] = room
            np.maximum(largest, table[column.codes], out=largest)
        for term, room in self._elsewhere:
            largest[match_term(columns, term) & (largest < room)] = room
        return largest


def largest_of(capacity: dict[str, Any]) -> int:
    """The largest volume that it has room for; -1 when it does not say."""
    said = capacity.get("maximumVolumeSize")
    said = capacity.get("capacity") if said is None else said
    return -1 if said is None else amount("storage", said)
