"""How many pods of an owner to ask for at once: 1, 2, 4, ... as long as all goes well. Pure but for the clock.

Source: slowStartBatch in kubernetes' pkg/controller/controller_utils.go, which begins with 1 each time it looks. Here
an owner whose pods were accepted a moment ago goes on where it was, unless it was changed since: its template is known
to be good, and to begin again for each 500 of 5,000 replicas would be 90 waits for the store, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.machinery.client import Obj
from cluster.machinery.clock import Clock

TRUST_S = 10.0
_OWNERS = 1000
_MOST = 500
"""What controllers ask for in one look, unless they are told otherwise."""


@dataclass(frozen=True, slots=True)
class _Grown:
    generation: int
    size: int
    at: float


class SlowStart:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grown: dict[str, _Grown] = {}

    def size(self, owner: Obj) -> int:
        """Of the next batch."""
        grown = self._grown.get(owner["metadata"]["uid"])
        if grown is None or grown.generation != _generation(owner) or self._clock() - grown.at > TRUST_S:
            return 1
        return grown.size

    def went_well(self, owner: Obj, size: int) -> None:
        """A batch for which `size` would have been allowed."""
        uid = owner["metadata"]["uid"]
        self._grown.pop(uid, None)
        self._grown[uid] = _Grown(_generation(owner), min(2 * size, _MOST), self._clock())
        if len(self._grown) > _OWNERS:
            del self._grown[next(iter(self._grown))]

    def failed(self, owner: Obj) -> None:
        self._grown.pop(owner["metadata"]["uid"], None)


def _generation(owner: Obj) -> int:
    return int(owner["metadata"].get("generation") or 0)
