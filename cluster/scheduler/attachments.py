"""Which volumes are attached where, for drivers that limit how many a node takes. Pure; rows as in `columns`.

A volume counts once on a node, however many pods there use it: it is held by pods (accounted to the row) and by
VolumeAttachments (still there while a volume is being detached). Limits are those of a node's CSINode; a driver that
names none has none there. Source: kube-scheduler plugin NodeVolumeLimits (csi.go).

Invariant: `counts[driver][row]` is the number of that driver's volumes with at least one holder on the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Volume = tuple[str, str]
"""(driver, handle)."""


class Attachments:
    def __init__(self, size: int) -> None:
        self._size = size
        self.limits: dict[str, Floats] = {}
        self.counts: dict[str, Floats] = {}
        self._holders: dict[Volume, dict[int, int]] = {}
        self._of_node: dict[str, dict[str, int]] = {}
        self._attached: dict[str, dict[str, Volume]] = {}

    def grow(self, size: int) -> None:
        more = size - self._size
        self._size = size
        for driver, limit in self.limits.items():
            self.limits[driver] = np.pad(limit, (0, more), constant_values=np.inf)
        for driver, count in self.counts.items():
            self.counts[driver] = np.pad(count, (0, more))

    # ---- nodes

    def set_limits(self, node: str, row: int | None, limits: Mapping[str, int]) -> bool:
        """Of a node by its name, also before it has a row; whether they changed."""
        if self._of_node.get(node, {}) == limits:
            return False
        self._of_node[node] = dict(limits)
        if not limits:
            del self._of_node[node]
        if row is not None:
            self._limit(row, limits)
        return True

    def _limit(self, row: int, limits: Mapping[str, int]) -> None:
        for limit in self.limits.values():
            limit[row] = np.inf
        for driver, most in limits.items():
            self.limits.setdefault(driver, np.full(self._size, np.inf))[row] = most

    def add_row(self, node: str, row: int) -> None:
        self._limit(row, self._of_node.get(node, {}))
        self.hold(row, self._attached.get(node, {}).values())

    def clear_row(self, node: str, row: int) -> None:
        """The node went; its pods were taken off before."""
        self._limit(row, {})
        self.release(row, self._attached.get(node, {}).values())

    # ---- who holds what

    def attached(self, name: str, node: str, row: int | None, volume: Volume | None) -> None:
        """A VolumeAttachment of that name says so; None: it is gone."""
        there = self._attached.setdefault(node, {})
        old = there.pop(name, None)
        if row is not None and old is not None:
            self.release(row, (old,))
        if volume is not None:
            there[name] = volume
            if row is not None:
                self.hold(row, (volume,))
        if not there:
            del self._attached[node]

    def hold(self, row: int, volumes: Iterable[Volume]) -> None:
        for volume in volumes:
            held = self._holders.setdefault(volume, {})
            held[row] = held.get(row, 0) + 1
            if held[row] == 1:
                self.counts.setdefault(volume[0], np.zeros(self._size))[row] += 1

    def release(self, row: int, volumes: Iterable[Volume]) -> None:
        for volume in volumes:
            held = self._holders[volume]
            held[row] -= 1
            if not held[row]:
                del held[row]
                self.counts[volume[0]][row] -= 1
            if not held:
                del self._holders[volume]

    # ---- the question

    def limited(self, volumes: Sequence[Volume]) -> bool:
        """Whether any node limits the drivers of these volumes."""
        return any(driver in self.limits for driver, _ in volumes)

    def exceeded(self, volumes: Sequence[Volume]) -> Mask:
        """Rows where attaching these, as far as they are not there already, would be too many for some driver."""
        rejected = np.zeros(self._size, dtype=np.bool_)
        for driver, new in Counter(driver for driver, _ in dict.fromkeys(volumes)).items():
            limit = self.limits.get(driver)
            if limit is None:
                continue
            missing = np.full(self._size, float(new))
            for volume in dict.fromkeys(volumes):
                if volume[0] == driver:
                    missing[list(self._holders.get(volume, ()))] -= 1
            rejected |= (missing > 0) & (self.counts.get(driver, 0.0) + missing > limit)
        return rejected
