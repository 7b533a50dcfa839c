"""The seats of the priority levels, and the queues before them. Pure but for futures of the running loop.

The server has as many seats as its levels have together; each level has a share of its own. What a level may lend
(lendablePercent) others may use while it does not:

    nominal = ceil(server's seats * shares / all shares)
    lower   = nominal - lendable
    upper   = nominal + borrowing limit

Invariants: a level never holds more than its upper limit; the levels together never hold or reserve more seats than
there are: sum(max(taken, lower)) <= sum(nominal). So a level always gets its lower limit at once, and what it borrows
it borrows from nobody's lower limit. Unlike Kubernetes, which shifts limits every ten seconds by past demand, a seat is
lent the moment it is wanted and comes back when its request ends; one that comes free goes to a level below its
nominal share before a borrower.

Waiting requests of a level are in queues that take turns. A flow is dealt a hand of queues by its hash and waits in the
shortest, so that a greedy flow can fill its own hand only (shuffle sharding, KEP-1040).
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any

Object = Mapping[str, Any]


class Level:
    """One priority level; `retired` when its object is gone and its last requests are still being served."""

    __slots__ = (
        "exempt", "hand_size", "lower", "name", "nominal", "queue_length", "queues", "rejects", "retired", "ring",
        "taken", "uid", "upper",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.uid = ""
        self.exempt = False
        self.rejects = False
        self.retired = False
        self.nominal = self.lower = self.upper = 0
        self.queues = self.hand_size = self.queue_length = 0
        self.taken = 0
        self.ring: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    def configure(self, obj: Object, server_seats: int, all_shares: int) -> None:
        spec = obj["spec"]
        self.uid = obj["metadata"].get("uid", "")
        self.exempt, self.retired = spec["type"] == "Exempt", False
        part = spec.get("exempt" if self.exempt else "limited") or {}
        self.nominal = math.ceil(server_seats * shares_of(obj) / all_shares) if all_shares else 0
        self.lower = self.nominal - round(self.nominal * (part.get("lendablePercent") or 0) / 100)
        borrowing = part.get("borrowingLimitPercent")
        self.upper = server_seats if borrowing is None else self.nominal + round(self.nominal * borrowing / 100)
        response = part.get("limitResponse") or {}
        queuing = response.get("queuing") or {}
        self.rejects = response.get("type") != "Queue"
        self.queues, self.hand_size = queuing.get("queues") or 1, queuing.get("handSize") or 1
        self.queue_length = queuing.get("queueLengthLimit") or 0

    def shortest(self, flow_hash: int) -> int:
        """The queue of the flow's hand in which fewest wait."""
        return min(hand(flow_hash, self.queues, self.hand_size), key=lambda q: len(self.ring.get(q, ())))


def shares_of(obj: Object) -> int:
    spec = obj["spec"]
    part = spec.get("exempt" if spec["type"] == "Exempt" else "limited") or {}
    return int(part.get("nominalConcurrencyShares") or 0)


def hand(flow_hash: int, queues: int, size: int) -> list[int]:
    """`size` different queues of `queues`, the same for the same hash."""
    dealt: list[int] = []
    for i in range(min(size, queues)):
        flow_hash, card = divmod(flow_hash, queues - i)
        for other in sorted(dealt):  # the card-th of those not dealt yet
            if card >= other:
                card += 1
        dealt.append(card)
    return dealt


class Seats:
    """All levels."""

    def __init__(self, server_seats: int) -> None:
        self._server_seats = server_seats
        self.levels: dict[str, Level] = {}
        self._retired: list[Level] = []
        self._waiting: OrderedDict[str, Level] = OrderedDict()
        self._all = 0
        self._held = 0

    def configure(self, objs: Iterable[Object]) -> None:
        """Levels that stay keep their requests; those of a level that goes are served to their end."""
        by_name = {o["metadata"]["name"]: o for o in objs}
        all_shares = sum(map(shares_of, by_name.values()))
        kept = {name: self.levels.get(name) or Level(name) for name in by_name}
        for name, obj in by_name.items():
            kept[name].configure(obj, self._server_seats, all_shares)
        for name, level in self.levels.items():
            if name not in kept:
                level.retired, level.lower = True, 0
                self._retired.append(level)
        self._retired = [level for level in self._retired if level.taken or level.ring]
        self.levels = kept
        limited = [*(level for level in kept.values() if not level.exempt), *self._retired]
        self._all = sum(level.nominal for level in kept.values() if not level.exempt)
        self._held = sum(max(level.taken, level.lower) for level in limited)
        self._hand_out()

    def take(self, level: Level) -> bool:
        """A seat at once, if nobody waits before and there is one."""
        if level.exempt:
            level.taken += 1
            return True
        if level.ring or not self._has_seat(level):
            return False
        self._grant(level)
        return True

    def wait(self, level: Level, flow_hash: int) -> tuple[int, asyncio.Future[None]] | None:
        """A place in a queue and the future of its turn; None when the flow's queues are full."""
        queue = level.shortest(flow_hash)
        line = level.ring.get(queue)
        if len(line or ()) >= level.queue_length:
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        level.ring.setdefault(queue, deque()).append(turn)
        self._waiting[level.name] = level
        return queue, turn

    def leave(self, level: Level, queue: int, turn: asyncio.Future[None]) -> None:
        """Give up waiting. A turn that came in the meantime passes on."""
        if turn.done() and not turn.cancelled():
            self.give(level)
            return
        line = level.ring.get(queue)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del level.ring[queue]

    def give(self, level: Level) -> None:
        """A seat comes free."""
        level.taken -= 1
        if level.exempt:
            return
        if level.taken >= level.lower:
            self._held -= 1
        if self._waiting:
            self._hand_out()

    def _has_seat(self, level: Level) -> bool:
        if level.retired or level.exempt:
            return True
        return level.taken < level.lower or (level.taken < level.upper and self._held < self._all)

    def _grant(self, level: Level) -> None:
        level.taken += 1
        if not level.exempt and level.taken > level.lower:
            self._held += 1

    def _hand_out(self) -> None:
        """Free seats to who waits: levels take turns, those below their nominal share first."""
        while self._waiting:
            ready = [level for level in self._waiting.values() if level.ring and self._has_seat(level)]
            for name in [n for n, level in self._waiting.items() if not level.ring]:
                del self._waiting[name]
            if not ready:
                return
            level = min(ready, key=lambda x: x.taken >= x.nominal)
            self._waiting.move_to_end(level.name)
            queue, line = level.ring.popitem(last=False)
            turn = line.popleft()
            if line:
                level.ring[queue] = line
            if not turn.done():
                self._grant(level)
                turn.set_result(None)
