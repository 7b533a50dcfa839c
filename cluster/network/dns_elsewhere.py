"""Answers that need names of other people: forwarded names, aliases that lead out, look-ups along a search path.

IO only through the Forwarder; what is in its cache is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cluster.network import dns_message
from cluster.network import dns_wire as wire
from cluster.network.dns_cache import Kept
from cluster.network.dns_forward import Forwarder, ForwardError, NoUpstream
from cluster.network.dns_zone import Answer

_NO_UPSTREAM = 23  # RFC 8914: Network Error; the text says what is missing


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is to be found for a query: `names` in turn until one exists, or, when that fails, `otherwise`. Without
    `otherwise` it is the one name asked for."""

    query: wire.Query
    names: tuple[bytes, ...]
    otherwise: Answer | None = None


class Names(Protocol):
    def answer(self, name: bytes, qtype: int) -> Answer | None:
        """None: the name is somebody else's."""


class Lookups:
    def __init__(self, zone: Names, forwarder: Forwarder) -> None:
        self._zone = zone
        self._forwarder = forwarder

    def now(self, wanted: Elsewhere, limit: int) -> bytes | None:
        """The response if everything it takes is known, else None."""
        settled = self._settle(wanted, limit, {})
        return settled if isinstance(settled, bytes) else None

    async def later(self, wanted: Elsewhere, limit: int) -> bytes:
        """The response, whatever it takes. Never raises, never waits for more than upstreams."""
        fresh: dict[bytes, Kept] = {}
        query = wanted.query
        try:
            while isinstance(settled := self._settle(wanted, limit, fresh), _Missing):
                fresh[settled.name] = await self._forwarder.lookup(settled.name, query.qtype, query.dnssec_ok)
            return settled
        except ForwardError as err:
            return self._failed(wanted, err, limit)

    def _failed(self, wanted: Elsewhere, err: ForwardError, limit: int) -> bytes:
        if wanted.otherwise is not None:  # the client goes on along its search path, and asks for the name itself
            return self._render(wanted, wanted.otherwise, limit)
        query = wanted.query
        if isinstance(err, NoUpstream):
            alias = self._zone.answer(query.name, query.qtype)
            if alias is not None:
                return wire.response(query, wire.NOERROR, alias.answers, limit=limit)
            rcode = wire.REFUSED
        else:
            rcode = wire.SERVFAIL
        return wire.response(query, rcode, authoritative=False, extended_error=(_NO_UPSTREAM, str(err)))

    def _settle(self, wanted: Elsewhere, limit: int, fresh: dict[bytes, Kept]) -> bytes | _Missing:
        for name in wanted.names:
            found = self._find(wanted.query, name, fresh)
            if isinstance(found, _Missing):
                return found
            if wanted.otherwise is None:
                return self._render(wanted, found, limit)
            if found.rcode == wire.NOERROR:
                return self._render(wanted, found_as(name, found, self._forwarder.cache.max_ttl_s), limit)
            if found.rcode != wire.NXDOMAIN:
                break  # nobody knows: as if it had not been searched for
        return self._render(wanted, wanted.otherwise or Answer(wire.SERVFAIL), limit)

    def _find(self, query: wire.Query, name: bytes, fresh: dict[bytes, Kept]) -> Answer | _Missing:
        """What `name` has: from the zone, from upstream, or an alias of the one with the records of the other."""
        ours = self._zone.answer(name, query.qtype)
        if ours is not None and not ours.alias:
            return ours
        target = name if ours is None else ours.alias
        kept = fresh.get(target) or self._forwarder.kept(target, query.qtype, query.dnssec_ok)
        if kept is None:
            return _Missing(target)
        theirs = self._aged(kept, query.name)
        if ours is None:
            return theirs
        return Answer(theirs.rcode, (*ours.answers, *theirs.answers), theirs.authority, theirs.additional)

    def _aged(self, kept: Kept, question: bytes) -> Answer:
        age_s, cap_s = int(self._forwarder.clock() - kept.since), self._forwarder.cache.max_ttl_s
        message = kept.message

        def section(records: tuple[dns_message.Record, ...]) -> tuple[bytes, ...]:
            return dns_message.packed(records, question, age_s, cap_s)

        return Answer(message.rcode, section(message.answers), section(message.authority), section(message.additional))

    @staticmethod
    def _render(wanted: Elsewhere, found: Answer, limit: int) -> bytes:
        return wire.response(
            wanted.query,
            found.rcode,
            found.answers,
            found.authority,
            found.additional,
            authoritative=found is wanted.otherwise,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class _Missing:
    name: bytes


def found_as(name: bytes, found: Answer, ttl_s: int) -> Answer:
    """`found`, the answer for `name`, as that for another question: behind an alias, its owners written out."""
    alias = wire.record(wire.POINTER, wire.CNAME, ttl_s, name)
    answers = (r if not r.startswith(wire.POINTER) else name + r[len(wire.POINTER) :] for r in found.answers)
    return Answer(found.rcode, (alias, *answers), found.authority, found.additional)
