"""Where the pods of a group go, all or none. Pure.

The whole group is decided in one step that nothing else comes between, and what was assumed is taken back before the
step ends when fewer than `min_available` found a place. So no group holds room while it waits for more, and two groups
that each want what the other one needs cannot wait for each other.

PACK takes as few places as it can, SPREAD as many; their STRICT_ forms take one place for all, or one for each. A place
is a node, or a domain of the group's topology key. The search is greedy, those with the fewest choices first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Pending, Placement, Unschedulable, Witness, assume, best_row, diagnose, feasible
from cluster.scheduler.diagnosis import fit_error
from cluster.scheduler.filters import Mask, needed
from cluster.scheduler.gangs import HOSTNAME, PLUGIN, Gang
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.queue import ANY
from cluster.scheduler.scores import Rows

_DOMAINS = 64
"""So many places are tried for a STRICT_PACK group, the roomiest first."""


@dataclass(slots=True)
class _Attempt:
    """One try to place the members within some rows. `used`: rows of the places that members run in already."""

    columns: NodeColumns
    gang: Gang
    profile: Profile
    nominated: Nominations
    tie_order: Rows | None
    used: Mask

    def same_place(self, row: int) -> Mask:
        """The rows of the row's domain; the row alone when it lacks the label, or the domain is the host."""
        mine = np.zeros(self.columns.size, dtype=np.bool_)
        mine[row] = True
        codes = self.columns.label(self.gang.topology_key).codes
        if self.gang.topology_key == HOSTNAME or codes[row] < 0:
            return mine
        result: Mask = codes == codes[row]
        return result

    def narrowed(self, pod: Pending, possible: Mask, left: int) -> Mask:
        """The possible rows that the strategy takes next, for a group of which `left` more are to come."""
        if self.gang.strategy == "STRICT_SPREAD":
            return possible & ~self.used
        if self.gang.strategy == "SPREAD":
            fresh = possible & ~self.used
            return fresh if fresh.any() else possible
        inside = possible & self.used
        return inside if inside.any() else self._roomiest(pod, possible, left)

    def _roomiest(self, pod: Pending, possible: Mask, left: int) -> Mask:
        """Where most of the group would fit, counted up to `left`: so that few places hold it."""
        if self.gang.strategy != "PACK" or left <= 1:
            return possible
        room = self._by_place(np.minimum(self._copies(pod), left) * possible)
        return np.asarray(possible & (room == room[possible].max()))

    def _copies(self, pod: Pending) -> Any:
        """How many such pods each row has room for."""
        vector = needed(self.columns, pod.shape, self.profile)
        asked = np.flatnonzero(vector)
        free = self.nominated.free(self.columns, pod.priority, pod.uid)
        return np.maximum(np.floor(free[asked] / vector[asked, None]).min(axis=0), 0.0)

    def _by_place(self, copies: Any) -> Any:
        codes = self.columns.label(self.gang.topology_key).codes
        if self.gang.topology_key == HOSTNAME:
            return copies
        sums = np.bincount(codes + 1, weights=copies)
        return np.where(codes >= 0, sums[codes + 1], copies)

    def run(self, members: Sequence[Pending], within: Mask, enough: int) -> list[Placement]:
        """As many as fit, assumed; none when that is fewer than `enough`."""
        placed: list[Placement] = []
        before, self.used = self.used, self.used.copy()
        for index, pod in enumerate(members):
            if len(placed) + len(members) - index < enough:
                break
            possible = feasible(self.columns, pod, self.profile, self.nominated) & within
            possible = self.narrowed(pod, possible, len(members) - index) if possible.any() else possible
            if not possible.any():
                continue
            row = best_row(self.columns, pod.shape, possible, self.tie_order, self.profile)
            placed.append(assume(self.columns, pod, row))
            self.used |= self.same_place(row)
        if len(placed) >= enough:
            return placed
        for one in placed:
            self.columns.remove_pod(one.pod.uid)
        self.used = before
        return []

    def places(self, members: Sequence[Pending]) -> list[Mask]:
        """The domains a STRICT_PACK group may go to: those its members use already, else the roomiest."""
        if self.used.any():
            return [self.used]
        codes = self.columns.label(self.gang.topology_key).codes
        hardest = members[0]
        possible = feasible(self.columns, hardest, self.profile, self.nominated)
        room = self._by_place(self._copies(hardest) * possible)
        rows = np.flatnonzero(self.columns.alive & (codes >= 0) & (room > 0))
        masks: dict[int, Mask] = {}
        for row in rows[np.argsort(-room[rows], kind="stable")].tolist():
            masks.setdefault(int(codes[row]), codes == codes[row])
            if len(masks) == _DOMAINS:
                break
        return list(masks.values())


def place_gang(
    columns: NodeColumns,
    gang: Gang,
    members: Sequence[Pending],
    running: Sequence[int],
    tie_order: Rows | None,
    profile: Profile,
    nominated: Nominations,
    witness: Witness | None = None,
) -> list[Placement | Unschedulable]:
    """Place the members, all that must run together or none; `running`: the rows of those that have a node already."""
    short = gang.min_available - len(running)
    if gang.problem or len(members) < short:
        found = len(members) + len(running)
        few = (
            f"pod group {gang.name} cannot find enough sibling pods, "
            f"current pods number: {found}, minMember of group: {gang.min_available}"
        )
        return _refused(columns, members, gang.problem or few, frozenset((PLUGIN,)))
    blocked = next((m for m in members if m.refusal or m.shape.unsupported), None)
    if blocked is not None:
        return _refused(columns, members, blocked.refusal or blocked.shape.unsupported, frozenset(("VolumeBinding",)))
    attempt = _Attempt(columns, gang, profile, nominated, tie_order, np.zeros(columns.size, dtype=np.bool_))
    for row in running:
        attempt.used |= attempt.same_place(row)
    hardest = _hardest_first(columns, members, profile, nominated)
    if witness:
        witness.before(columns, hardest, profile, nominated)
    places = attempt.places(hardest) if gang.strategy == "STRICT_PACK" else [columns.alive]
    placed: list[Placement] = []
    for within in places:
        placed = attempt.run(hardest, within, max(short, 1))
        if placed:
            break
    here = {one.pod.uid for one in placed}
    left = [m for m in members if m.uid not in here]
    return [*placed, *_why(columns, gang, left, profile, nominated)]


def _hardest_first(
    columns: NodeColumns, members: Sequence[Pending], profile: Profile, nominated: Nominations
) -> list[Pending]:
    """Those with the fewest rows to choose from, then the largest, first: the others can still go elsewhere."""
    choices: dict[Any, int] = {}
    for one in members:
        if (one.shape, one.confined, one.volumes) not in choices:
            choices[one.shape, one.confined, one.volumes] = int(
                np.count_nonzero(feasible(columns, one, profile, nominated))
            )
    return sorted(
        members, key=lambda m: (choices[m.shape, m.confined, m.volumes], [-amount for _, amount in m.shape.requests])
    )


def _refused(
    columns: NodeColumns, members: Sequence[Pending], why: str, plugins: frozenset[str]
) -> list[Placement | Unschedulable]:
    text = why if why.startswith("0/") else f"0/{len(columns.rows)} nodes are available: {why}."
    return [Unschedulable(one, text, plugins | {PLUGIN}) for one in members]


def _why(
    columns: NodeColumns,
    gang: Gang,
    left: Sequence[Pending],
    profile: Profile,
    nominated: Nominations,
) -> list[Placement | Unschedulable]:
    """What keeps each one waiting: its own filters, or only that the group as a whole found no place."""
    made: list[Placement | Unschedulable] = []
    known: dict[Any, tuple[str, frozenset[str]]] = {}
    for one in left:
        alike = one.shape, one.confined, one.volumes
        if alike not in known:
            known[alike] = _reason(columns, gang, one, profile, nominated)
        made.append(Unschedulable(one, *known[alike]))
    return made


def _reason(
    columns: NodeColumns, gang: Gang, pod: Pending, profile: Profile, nominated: Nominations
) -> tuple[str, frozenset[str]]:
    found = diagnose(columns, pod, profile, nominated)
    if sum(found.reasons.values()) >= len(columns.rows):
        return fit_error(columns, found.reasons), frozenset((*found.plugins, PLUGIN))
    text = f"pod group {gang.name} needs room for {gang.min_available} pods at once ({gang.strategy})"
    return f"0/{len(columns.rows)} nodes are available: {text}.", frozenset((ANY,))
