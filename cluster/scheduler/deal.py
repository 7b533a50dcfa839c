"""Placing equal pods together, where each changes nothing but the load of its own row.

Pure. What each promising row scores with 1, 2, ... copies more is computed for all rows at once, and a heap deals the
pods out: a pod goes where the score is highest, and that row comes back with its next score. The result equals placing
them one by one.
"""

from __future__ import annotations

import heapq

import numpy as np

from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.config import Profile
from cluster.scheduler.filters import Mask, needed
from cluster.scheduler.scores import Rows, other_total, usage_total
from cluster.scheduler.shape import PodShape
from cluster.scheduler.timings import Timings


def best_of(total: Floats, ties: Rows, most: int) -> Rows:
    """Where the best are, best first: by total, then by tie. Sorts no more than it has to."""
    some: Rows = np.arange(len(total))
    if len(total) > 2 * most:
        least = total.max()
        if np.count_nonzero(total == least) < most:
            least = np.partition(total, -most)[-most]
        above, level = np.flatnonzero(total > least), np.flatnonzero(total == least)
        left = most - len(above)
        if len(level) > left:
            level = level[np.argpartition(ties[level], left - 1)[:left]]
        some = np.concatenate((above, level))
    best: Rows = some[np.lexsort((ties[some], -total[some]))][:most]
    return best


class _Levels:
    """Of the rows that can be reached: what each scores with so many copies more, and whether they fit. Worked out as
    far as it is asked for."""

    def __init__(
        self,
        columns: NodeColumns,
        shape: PodShape,
        rows: Rows,
        settled: Floats,
        free: Floats,
        profile: Profile,
        timings: Timings | None,
    ) -> None:
        """`settled`: the part of each row's score that copies do not change. `free`: what all rows have left."""
        vector = needed(columns, shape, profile)
        asked = np.flatnonzero(vector)
        self._wanted = vector[asked, None]
        self._free = free[np.ix_(asked, rows)]
        self._once = bool(shape.host_ports or shape.disks)
        self._of = (columns, shape, profile, rows)
        self._settled = settled
        self._timings = timings
        self.scores: list[list[float]] = []
        """Negated, for a heap: [0] is with one copy."""
        self.fits: list[list[bool]] = []
        self.add()

    def add(self) -> None:
        """With one copy more."""
        copies = len(self.scores) + 1
        columns, shape, profile, rows = self._of
        usage = usage_total(columns, shape, profile, rows, copies, self._timings)
        self.scores.append((-self._settled - usage).tolist())
        room = np.asarray((self._free >= self._wanted * copies).all(axis=0)) & (copies == 1 or not self._once)
        self.fits.append(room.tolist())


def deal(
    columns: NodeColumns,
    shape: PodShape,
    most: int,
    possible: Mask,
    free: Floats,
    profile: Profile,
    tie_order: Rows | None,
    timings: Timings | None,
) -> list[int]:
    """The rows of as many of `most` equal pods as can be placed without looking again; at least one's.

    Only the best `most` rows can ever be reached: a pod takes either a row already used or the next unused one.
    `free`: what all rows have left for such pods.
    """
    rows = np.flatnonzero(possible)
    other, normalized = other_total(columns, shape, profile, possible, timings)
    settled = np.zeros(len(rows)) if other is None else other[rows]
    ties = rows if tie_order is None else tie_order[rows]
    order = best_of(settled + usage_total(columns, shape, profile)[rows], ties, most)
    rows, settled, ties = rows[order], settled[order], ties[order]
    levels = _Levels(columns, shape, rows, settled, free, profile, timings)
    scores, fits = levels.scores, levels.fits
    heap = [(score, tie, i) for i, (score, tie) in enumerate(zip(scores[0], ties.tolist(), strict=True))]
    heapq.heapify(heap)
    taken = [0] * len(rows)
    chosen: list[int] = []
    while heap and len(chosen) < most:
        _, tie, i = heap[0]
        chosen.append(int(rows[i]))
        taken[i] = copies = taken[i] + 1
        if copies == len(scores):
            levels.add()
        if fits[copies][i]:
            heapq.heapreplace(heap, (scores[copies][i], tie, i))
        elif normalized:
            break  # a rival is gone: the others may score differently now
        else:
            heapq.heappop(heap)
    return chosen
