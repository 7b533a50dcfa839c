"""A resolver's whole answer, taken apart so that it can be kept, aged and put behind another question. Pure.

Names in it are written out (RFC 1035 lets a message point to names earlier in it; RFC 3597 section 4 lists the types
whose data may do so), which is why its records may go into any other message. Anything that cannot be read raises
`WireError`: an upstream's answer is not trusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cluster.network import dns_wire as wire
from cluster.network.dns_wire import FORMERR, WireError

_MX = 15
_NAME_AT = {wire.NS: 0, wire.CNAME: 0, wire.PTR: 0, 39: 0, _MX: 2, wire.SRV: 6}
"""Where the one name begins in the data of types that have one (39: DNAME)."""
_MAX_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Record:
    owner: bytes
    rtype: int
    ttl_s: int
    rdata: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """`truncated`: there is more, to be had over TCP."""

    rcode: int
    truncated: bool
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    edns: bool = False

    @property
    def life_s(self) -> int:
        """How long to believe it (RFC 2308): its shortest TTL, for a denial also what the SOA says. 0: not at all."""
        if self.rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return 0
        ttls = [record.ttl_s for record in (*self.answers, *self.authority)]
        if self.rcode == wire.NXDOMAIN or not self.answers:
            minimums = [struct.unpack("!I", r.rdata[-4:])[0] for r in self.authority if r.rtype == wire.SOA]
            if not minimums:
                return 0
            ttls += minimums
        return min(ttls)


def parse(data: bytes) -> Message:
    """Raises WireError."""
    if len(data) < wire.HEADER_BYTES:
        raise WireError(FORMERR)
    questions, *counts = struct.unpack_from("!HHHH", data, 4)
    if questions > 1 or sum(counts) > _MAX_RECORDS:
        raise WireError(FORMERR)
    offset = wire.HEADER_BYTES
    if questions:
        offset = _name(data, offset)[1] + 4
    sections: list[tuple[Record, ...]] = []
    extended, edns = 0, False
    for count in counts:
        records: list[Record] = []
        for _ in range(count):
            record, offset = _record(data, offset)
            if record.rtype == wire.OPT:
                extended, edns = record.ttl_s >> 24, True
            else:
                records.append(record)
        sections.append(tuple(records))
    rcode = (data[3] & 0xF) | extended << 4
    return Message(rcode, bool(data[2] & wire.TC_BIT), sections[0], sections[1], sections[2], edns)


def packed(records: tuple[Record, ...], question: bytes, age_s: int, cap_s: int) -> tuple[bytes, ...]:
    """The records as they go behind a question of that (lower-case) name, `age_s` later, for at most `cap_s`."""
    return tuple(
        wire.record(
            wire.POINTER if r.owner == question else r.owner, r.rtype, max(0, min(r.ttl_s, cap_s) - age_s), r.rdata
        )
        for r in records
    )


def _record(data: bytes, offset: int) -> tuple[Record, int]:
    owner, offset = _name(data, offset)
    if offset + 10 > len(data):
        raise WireError(FORMERR)
    rtype, rclass, ttl_s, length = struct.unpack_from("!HHIH", data, offset)
    start = offset + 10
    end = start + length
    if end > len(data) or (rclass != wire.IN and rtype != wire.OPT):
        raise WireError(FORMERR)
    if ttl_s >> 31 and rtype != wire.OPT:
        ttl_s = 0  # RFC 2181 section 8
    return Record(owner, rtype, ttl_s, _rdata(data, rtype, start, end)), end


def _rdata(data: bytes, rtype: int, start: int, end: int) -> bytes:
    if rtype == wire.SOA:
        mname, offset = _name(data, start)
        rname, offset = _name(data, offset)
        if offset + 20 != end:
            raise WireError(FORMERR)
        return mname + rname + data[offset:end]
    before = _NAME_AT.get(rtype)
    if before is None:
        return data[start:end]
    target, offset = _name(data, start + before)
    if offset != end:
        raise WireError(FORMERR)
    return data[start : start + before] + target


def _name(data: bytes, offset: int) -> tuple[bytes, int]:
    """(the name written out in lower case, offset behind it). A pointer must lead backwards, so this ends."""
    out = bytearray()
    behind = -1
    earliest = offset
    while True:
        if offset >= len(data) or len(out) > 254:
            raise WireError(FORMERR)
        length = data[offset]
        if length & 0xC0 == 0xC0:
            if offset + 1 >= len(data):
                raise WireError(FORMERR)
            if behind < 0:
                behind = offset + 2
            offset = (length & 0x3F) << 8 | data[offset + 1]
            if offset >= earliest:
                raise WireError(FORMERR)
            earliest = offset
        elif length > 63:
            raise WireError(FORMERR)
        elif not length:
            out.append(0)
            return bytes(out).lower(), offset + 1 if behind < 0 else behind
        else:
            out += data[offset : offset + 1 + length]
            offset += 1 + length
