"""From a query's bytes to an answer's bytes, or to "ask upstream". Pure but for the counters of its cache.

Most queries repeat byte for byte but for their id: so whole responses are kept by what follows the id, and the usual
answer is one dictionary look-up and one concatenation. The cache holds answers of the zone alone, is emptied whenever
the zone changes and when it is full, and never holds what differs between clients (several addresses rotate; EDNS
options such as cookies make a key that will not come again, so those queries are not kept).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.network import dns_wire as wire
from cluster.network.dns_zone import Answer, Zone

_CACHE_ENTRIES = 20_000
_PLAIN_OPT_BYTES = 11
SYNCING = (14, "the cluster's names are not known yet")  # RFC 8914: Not Ready


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished message."""

    data: bytes
    qtype: int
    rcode: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A name of somebody else's: forward the client's query."""

    query: wire.Query


@dataclass(frozen=True, slots=True)
class Chase:
    """An alias that leads out of the cluster: look `target` up upstream and put its records behind `answers`."""

    query: wire.Query
    answers: tuple[bytes, ...]
    target: bytes


class Resolver:
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._revision = zone.revision
        self._kept: dict[bytes, tuple[bytes, int, int]] = {}
        self._turn = 0
        self.ready = False
        """Until the first list of all Services is in, the zone's names are SERVFAIL: NXDOMAIN would be believed."""

    def quick(self, data: bytes) -> tuple[bytes, int, int] | None:
        """(response without the id, type, rcode) for a UDP query seen before, else None."""
        if self._revision != self._zone.revision:
            self._revision = self._zone.revision
            self._kept.clear()
        return self._kept.get(data[2:])

    def answer(self, data: bytes, *, tcp: bool = False) -> Reply | Ask | Chase | None:
        """None: not worth an answer."""
        try:
            query = wire.parse_query(data)
        except wire.WireError as err:
            response = wire.error_response(data, err)
            return None if response is None else Reply(response, 0, (err.code or 0) & 0xF)
        if query.qtype in (wire.AXFR, wire.ANY, wire.OPT):
            return Reply(wire.response(query, wire.NOTIMP, authoritative=False), query.qtype, wire.NOTIMP)
        found = self._zone.answer(query.name, query.qtype)
        if found is None:
            return Ask(query)
        if not self.ready:
            failed = wire.response(query, wire.SERVFAIL, authoritative=False, extended_error=SYNCING)
            return Reply(failed, query.qtype, wire.SERVFAIL)
        if found.alias and query.qtype != wire.CNAME:
            return Chase(query, found.answers, found.alias)
        limit = 65535 if tcp else query.udp_limit
        response = wire.response(
            query, found.rcode, self._rotated(found), found.authority, found.additional, limit=limit
        )
        self._keep(data, query, found, response, tcp)
        return Reply(response, query.qtype, found.rcode)

    def _rotated(self, found: Answer) -> tuple[bytes, ...]:
        """Several addresses begin at another one each time, so that clients that take the first spread out."""
        if len(found.answers) < 2:
            return found.answers
        self._turn += 1
        at = self._turn % len(found.answers)
        return found.answers[at:] + found.answers[:at]

    def _keep(self, data: bytes, query: wire.Query, found: Answer, response: bytes, tcp: bool) -> None:
        plain = wire.HEADER_BYTES + len(query.question) + (_PLAIN_OPT_BYTES if query.edns_bytes else 0)
        if tcp or len(found.answers) > 1 or len(data) != plain:
            return
        if len(self._kept) >= _CACHE_ENTRIES:
            self._kept.clear()
        self._kept[data[2:]] = (response[2:], query.qtype, found.rcode)
