"""From a query's bytes to an answer's bytes, or to `Elsewhere`. Pure but for the counters of its cache.

Most queries repeat byte for byte but for their id: so whole responses are kept by what follows the id, and the usual
answer is one dictionary look-up and one concatenation. The cache holds answers of the zone alone, is emptied whenever
the zone changes and when it is full, and never holds what differs between queries (several addresses rotate; EDNS
options such as cookies make a key that will not come again, so those queries are not kept). What was found along a
client's search path (dns_search.py) is kept for the clients that have the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cluster.network import dns_wire as wire
from cluster.network.dns_elsewhere import Elsewhere, found_as
from cluster.network.dns_search import Path, SearchPaths, expansions
from cluster.network.dns_zone import Answer, Zone

_CACHE_ENTRIES = 20_000
_PLAIN_OPT_BYTES = 11
_CNAME = wire.CNAME.to_bytes(2)
SYNCING = (14, "the cluster's names are not known yet")  # RFC 8914: Not Ready

Kept = tuple[bytes, int, int]
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished message."""

    data: bytes
    qtype: int
    rcode: int


def read(data: bytes) -> wire.Query | Reply | None:
    """The question, or the error its asker gets, or None: not worth an answer."""
    try:
        query = wire.parse_query(data)
    except wire.WireError as err:
        response = wire.error_response(data, err)
        return None if response is None else Reply(response, 0, (err.code or 0) & 0xF)
    if query.qtype in (wire.AXFR, wire.ANY, wire.OPT):
        return Reply(wire.response(query, wire.NOTIMP, authoritative=False), query.qtype, wire.NOTIMP)
    return query


class Resolver:
    def __init__(self, zone: Zone, paths: SearchPaths | None = None) -> None:
        """`paths`: of the clients whose search paths are to be followed for them."""
        self._zone = zone
        self._paths = SearchPaths(zone.config.domain) if paths is None else paths
        self._revision = zone.revision
        self._kept: dict[bytes, Kept] = {}
        self._searched: dict[tuple[Path, bytes], Kept] = {}
        self._turn = 0
        self.ready = False
        """Until the first list of all Services is in, the zone's names are SERVFAIL: NXDOMAIN would be believed."""

    def quick(self, data: bytes, client: str) -> Kept | None:
        """(response without the id, type, rcode) for a UDP query seen before, else None."""
        if self._revision != self._zone.revision:
            self._revision = self._zone.revision
            self._kept.clear()
            self._searched.clear()
        found = self._kept.get(data[2:])
        if found is not None:
            return found
        path = self._paths.of(client)
        return self._searched.get((path, data[2:])) if path else None

    def answer(self, data: bytes, client: str = "", *, tcp: bool = False) -> Reply | Elsewhere | None:
        """None: not worth an answer."""
        query = read(data)
        if query is None or isinstance(query, Reply):
            return query
        found = self._zone.answer(query.name, query.qtype)
        if found is None:
            return Elsewhere(query, (query.name,))
        if not self.ready:
            failed = wire.response(query, wire.SERVFAIL, authoritative=False, extended_error=SYNCING)
            return Reply(failed, query.qtype, wire.SERVFAIL)
        if found.alias and query.qtype != wire.CNAME:
            return Elsewhere(query, (query.name,))
        path: Path = ()
        if found.rcode == wire.NXDOMAIN and query.qtype in (wire.A, wire.AAAA):
            path = self._paths.of(client) or ()
            searched = self._search(query, found, path)
            if isinstance(searched, Elsewhere):
                return searched
            found = searched
        return self._reply(data, query, found, path, tcp)

    def _search(self, query: wire.Query, denied: Answer, path: Path) -> Answer | Elsewhere:
        """The answer further along the client's search path; `denied` when there is none."""
        names = expansions(query.name, path)
        for index, name in enumerate(names):
            found = self._zone.answer(name, query.qtype)
            if found is None or found.alias:
                return Elsewhere(query, names[index:], otherwise=denied)
            if found.rcode != wire.NXDOMAIN:
                return found_as(name, found, self._zone.config.ttl_s)
        return denied

    def _reply(self, data: bytes, query: wire.Query, found: Answer, path: Path, tcp: bool) -> Reply:
        limit = 65535 if tcp else query.udp_limit
        response = wire.response(
            query, found.rcode, self._rotated(found), found.authority, found.additional, limit=limit
        )
        if not tcp and self._may_keep(data, query, found):
            kept = (response[2:], query.qtype, found.rcode)
            if path:
                _keep(self._searched, (path, data[2:]), kept)
            elif found.rcode != wire.NXDOMAIN or not len(self._paths):  # another client may be searching for it
                _keep(self._kept, data[2:], kept)
        return Reply(response, query.qtype, found.rcode)

    def _rotated(self, found: Answer) -> tuple[bytes, ...]:
        """Several addresses begin at another one each time, so that clients that take the first spread out."""
        answers = found.answers
        if len(answers) < 2 or answers[0][2:4] == _CNAME:  # an alias stays in front of what it leads to
            return answers
        self._turn += 1
        at = self._turn % len(answers)
        return answers[at:] + answers[:at]

    @staticmethod
    def _may_keep(data: bytes, query: wire.Query, found: Answer) -> bool:
        plain = wire.HEADER_BYTES + len(query.question) + (_PLAIN_OPT_BYTES if query.edns_bytes else 0)
        rotates = len(found.answers) > 1 and found.answers[0][2:4] != _CNAME
        return not rotates and len(data) == plain


def _keep(kept: dict[K, Kept], key: K, value: Kept) -> None:
    if len(kept) >= _CACHE_ENTRIES:
        kept.clear()
    kept[key] = value
