"""DNS messages by hand: just enough to read a question and to put ready-made records behind it. Pure.

Names here are wire bytes in lower case, with the final zero. Record owners are the two-byte pointer to the question's
name (`POINTER`), which is why a record made once serves every client. Anything unusual in a query (several questions,
another opcode, a class that is not IN) is answered with its error code rather than guessed at.

Source: RFC 1035 (format), RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 8914 (extended errors).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, AXFR, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
POINTER = b"\xc0\x0c"
HEADER_BYTES = 12
MAX_UDP_BYTES = 1232
"""What fits every path without fragments (DNS flag day 2020); larger EDNS offers are cut to it."""
CLASSIC_UDP_BYTES = 512
_QR_AA, _QR, TC_BIT, _RD, _RA = 0x84, 0x80, 0x02, 0x01, 0x80
_DNSSEC_OK = 0x8000
_EDE = 15


@dataclass(frozen=True, slots=True)
class Query:
    """One parsed question. `question`: its bytes as the client wrote them; `name`: lower case; `edns_bytes`: 0 for a
    client without EDNS."""

    qid: bytes
    recursion_desired: bool
    question: bytes
    name: bytes
    qtype: int
    edns_bytes: int = 0
    dnssec_ok: bool = False

    @property
    def udp_limit(self) -> int:
        return max(CLASSIC_UDP_BYTES, min(self.edns_bytes, MAX_UDP_BYTES))


class WireError(Exception):
    """A query that gets an error code back; `code` None: not even that (too short, or itself an answer)."""

    def __init__(self, code: int | None, edns: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.edns = edns


def parse_query(data: bytes) -> Query:
    """Raises WireError."""
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        raise WireError(None)
    if data[2] & 0x78:
        raise WireError(NOTIMP)
    questions, answers, authority, additional = struct.unpack_from("!HHHH", data, 4)
    if questions != 1 or answers or authority:
        raise WireError(FORMERR)
    end = skip_name(data, HEADER_BYTES)
    if end + 4 > len(data):
        raise WireError(FORMERR)
    qtype, qclass = struct.unpack_from("!HH", data, end)
    edns_bytes, dnssec_ok = _edns(data, end + 4, additional)
    if qclass != IN:
        raise WireError(REFUSED, edns_bytes > 0)
    question = data[HEADER_BYTES : end + 4]
    return Query(data[:2], bool(data[2] & _RD), question, question[:-4].lower(), qtype, edns_bytes, dnssec_ok)


def skip_name(data: bytes, offset: int) -> int:
    """The offset behind an uncompressed name (a question's). Raises WireError."""
    start = offset
    while True:
        if offset >= len(data) or offset - start > 254:
            raise WireError(FORMERR)
        length = data[offset]
        offset += 1
        if not length:
            return offset
        if length > 63:
            raise WireError(FORMERR)
        offset += length


def _edns(data: bytes, offset: int, additional: int) -> tuple[int, bool]:
    """The client's UDP size if it speaks EDNS, else 0, and whether it wants signatures. Raises WireError."""
    for _ in range(additional):
        if offset + 11 > len(data):
            raise WireError(FORMERR)
        if data[offset] == 0 and struct.unpack_from("!H", data, offset + 1)[0] == OPT:
            if data[offset + 6]:
                raise WireError(BADVERS, True)
            size, flags = struct.unpack_from("!H3xBx", data, offset + 3)
            return max(CLASSIC_UDP_BYTES, int(size)), bool(flags & _DNSSEC_OK >> 8)
        offset = skip_name(data, offset)
        if offset + 10 > len(data):
            raise WireError(FORMERR)
        offset += 10 + int(struct.unpack_from("!H", data, offset + 8)[0])
    return 0, False


def response(
    query: Query,
    rcode: int = NOERROR,
    answers: tuple[bytes, ...] = (),
    authority: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
    *,
    authoritative: bool = True,
    limit: int = 65535,
    extended_error: tuple[int, str] | None = None,
) -> bytes:
    """A whole message. What exceeds `limit` is left out: additional records silently, others with the TC bit."""
    opt = opt_record(rcode >> 4, extended_error, dnssec_ok=query.dnssec_ok) if query.edns_bytes else b""
    room = limit - HEADER_BYTES - len(query.question) - len(opt)
    kept, cut = _fit(answers, room)
    room -= sum(map(len, kept))
    kept_authority, cut_authority = _fit(authority, room)
    cut = cut or cut_authority
    room -= sum(map(len, kept_authority))
    kept_additional = () if cut else _fit(additional, room)[0]
    flags = (_QR_AA if authoritative else _QR) | (TC_BIT if cut else 0) | (_RD if query.recursion_desired else 0)
    header = query.qid + struct.pack(
        "!BBHHHH",
        flags,
        _RA | (rcode & 0xF),
        1,
        len(kept),
        len(kept_authority),
        len(kept_additional) + (1 if opt else 0),
    )
    return b"".join((header, query.question, *kept, *kept_authority, *kept_additional, opt))


def _fit(records: tuple[bytes, ...], room: int) -> tuple[tuple[bytes, ...], bool]:
    for index, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return records[:index], True
    return records, False


def error_response(data: bytes, error: WireError) -> bytes | None:
    """The answer to a query that could not be parsed; None when it deserves none."""
    if error.code is None:
        return None
    opt = opt_record(error.code >> 4) if error.edns else b""
    flags = bytes((_QR | (data[2] & 0x79), error.code & 0xF))
    return data[:2] + flags + struct.pack("!HHHH", 0, 0, 0, 1 if opt else 0) + opt


def query(name: bytes, qtype: int, dnssec_ok: bool = False, *, edns: bool = True) -> bytes:
    """A question for a resolver, without its id."""
    counts = struct.pack("!BBHHHH", _RD, 0, 1, 0, 0, int(edns))
    return counts + name + struct.pack("!HH", qtype, IN) + (opt_record(dnssec_ok=dnssec_ok) if edns else b"")


def opt_record(
    extended_rcode: int = 0, extended_error: tuple[int, str] | None = None, *, dnssec_ok: bool = False
) -> bytes:
    options = b""
    if extended_error is not None:
        text = struct.pack("!H", extended_error[0]) + extended_error[1].encode()
        options = struct.pack("!HH", _EDE, len(text)) + text
    flags = _DNSSEC_OK if dnssec_ok else 0
    return struct.pack("!BHHBBHH", 0, OPT, MAX_UDP_BYTES, extended_rcode, 0, flags, len(options)) + options


def record(owner: bytes, rtype: int, ttl_s: int, rdata: bytes) -> bytes:
    return owner + struct.pack("!HHIH", rtype, IN, ttl_s, len(rdata)) + rdata


def name(text: str) -> bytes:
    """`a.b.c` (with or without the final dot) as lower-case wire bytes. Raises ValueError."""
    out = bytearray()
    for label in text.rstrip(".").lower().split(".") if text.rstrip(".") else ():
        raw = label.encode()
        if not 0 < len(raw) <= 63:
            raise ValueError(f"{text!r} is not a domain name")
        out.append(len(raw))
        out += raw
    if len(out) > 254:
        raise ValueError(f"{text!r} is longer than a domain name can be")
    out.append(0)
    return bytes(out)


def labels(wire: bytes) -> list[bytes]:
    out: list[bytes] = []
    offset = 0
    while offset < len(wire) and wire[offset]:
        out.append(wire[offset + 1 : offset + 1 + wire[offset]])
        offset += 1 + wire[offset]
    return out


def parent(wire: bytes) -> bytes:
    return wire[1 + wire[0] :]


def address_rdata(address: str) -> bytes:
    """Of A or AAAA. Raises ValueError."""
    return ipaddress.ip_address(address).packed


def address_type(address: str) -> int:
    return AAAA if ":" in address else A


def srv_rdata(weight: int, port: int, target: bytes) -> bytes:
    return struct.pack("!HHH", 0, weight, port) + target


def soa_rdata(mname: bytes, rname: bytes, serial: int, minimum_s: int) -> bytes:
    return mname + rname + struct.pack("!IIIII", serial & 0xFFFFFFFF, 7200, 1800, 86400, minimum_s)


def reverse_name(address: str) -> bytes:
    """`4.3.2.10.in-addr.arpa`, or RFC 3596's `...ip6.arpa` with a label for each of 32 digits."""
    return name(ipaddress.ip_address(address).reverse_pointer)
