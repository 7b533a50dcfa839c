"""What upstream resolvers said, for as long as it may be believed. Pure but for its own memory; the caller says `now`.

Answers and denials are kept for their TTL, at most `max_ttl_s` (30 s, as kubeadm's `cache 30`), failures for 5 s
(RFC 2308 section 7), so that a name that cannot be resolved is not asked for again by everybody at once. When it is
full, what is over goes first and then what came first.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.network import dns_wire as wire
from cluster.network.dns_message import Message

FAILURE_S = 5
Key = tuple[bytes, int, bool]
"""(lower-case name, type, DNSSEC OK)"""


@dataclass(frozen=True, slots=True)
class Kept:
    message: Message
    since: float
    until: float


class Cache:
    def __init__(self, max_entries: int = 10_000, max_ttl_s: int = 30) -> None:
        self.max_ttl_s = max_ttl_s
        self._max_entries = max_entries
        self._kept: dict[Key, Kept] = {}
        self.hits = {"success": 0, "denial": 0}
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> Kept | None:
        found = self._kept.get(key)
        if found is None or found.until <= now:
            return None
        self.hits["success" if found.message.answers else "denial"] += 1
        return found

    def put(self, key: Key, message: Message, now: float) -> Kept:
        """Kept if it may be; returned with its times in any case."""
        failed = message.rcode not in (wire.NOERROR, wire.NXDOMAIN)
        kept = Kept(message, now, now + (FAILURE_S if failed else min(message.life_s, self.max_ttl_s)))
        if kept.until > now:
            self._kept.pop(key, None)  # a new entry is the youngest
            if len(self._kept) >= self._max_entries:
                self._make_room(now)
            self._kept[key] = kept
        return kept

    def _make_room(self, now: float) -> None:
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            del self._kept[key]
        for key in list(self._kept)[: max(0, len(self._kept) - self._max_entries * 9 // 10)]:
            del self._kept[key]
