"""Finds and deletes UDP flows that conntrack would go on sending to the wrong place. IO: ctnetlink.

UDP has no end of connection: a client that keeps its socket keeps its conntrack entry, and with it the endpoint that
was chosen for it, even when that pod is gone; and a flow begun before a Service had endpoints stays untranslated.
Kubernetes' proxy deletes such entries when endpoints change; so does this, by looking at the flows there are
(`stale_flows` is pure) instead of guessing from what changed.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.network.families import V4, Family
from cluster.network.netlink import attribute, attributes, messages
from cluster.network.rules import RuleTable

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 0x0101, 0x0102
_NLM_REQUEST, _NLM_ACK, _NLM_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TUPLE_ORIG, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_ADDRESSES: dict[int, tuple[int, int]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
"""Attributes of source and destination."""
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_ENOENT = 2
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Flow:
    """One conntrack entry. The reply's source is where the packets really go. `key`: its original tuple, encoded."""

    original_dst: str
    original_port: int
    reply_src: str
    reply_port: int
    key: bytes


def stale_flows(flows: Iterable[Flow], table: RuleTable, local_addresses: frozenset[str]) -> list[Flow]:
    """The UDP flows that go elsewhere than the maps would send them now. Pure.

    A flow to an address the maps do not know is nobody's business here and stays.
    """
    out: list[Flow] = []
    for flow in flows:
        allowed = table.address_endpoints(flow.original_dst, "udp", flow.original_port)
        if allowed is None and flow.original_dst in local_addresses:
            allowed = table.port_endpoints("udp", flow.original_port)
        if allowed and f"{flow.reply_src} . {flow.reply_port}" not in allowed:
            out.append(flow)
    return out


def orphaned_flows(flows: Iterable[Flow], gone: Iterable[tuple[str, int]]) -> list[Flow]:
    """The translated flows to fronts (address or "" for a NodePort, port) that have no endpoints any more. Pure."""
    wanted = set(gone)
    return [
        flow
        for flow in flows
        if ((flow.original_dst, flow.original_port) in wanted or ("", flow.original_port) in wanted)
        and (flow.reply_src, flow.reply_port) != (flow.original_dst, flow.original_port)
    ]


class Conntrack:
    """This namespace's flows of one family. Blocking; call from a thread."""

    def __init__(self, family: Family = V4) -> None:
        self._family = family.number

    def udp_flows(self) -> list[Flow]:
        with _open() as sock:
            sock.send(_message(self._family, _CT_GET, _NLM_REQUEST | _NLM_DUMP, b""))
            return [flow for payload in _replies(sock) if (flow := parse_flow(payload)) is not None]

    def delete(self, flows: Iterable[Flow]) -> int:
        """How many were still there to be deleted."""
        done = 0
        with _open() as sock:
            for flow in flows:
                original = attribute(_TUPLE_ORIG, flow.key, nested=True)
                sock.send(_message(self._family, _CT_DELETE, _NLM_REQUEST | _NLM_ACK, original))
                try:
                    list(_replies(sock))
                except FileNotFoundError:
                    continue
                done += 1
        return done


def parse_flow(payload: bytes) -> Flow | None:
    """A ctnetlink message's UDP flow; None for any other. Pure."""
    if not payload or payload[0] not in _IP_ADDRESSES:
        return None
    family, found = payload[0], dict(attributes(payload[4:]))
    original, reply = (_tuple(family, found.get(which, b"")) for which in (_TUPLE_ORIG, _TUPLE_REPLY))
    if original is None or reply is None:
        return None
    return Flow(original[1], original[3], reply[0], reply[2], found[_TUPLE_ORIG])


def _tuple(family: int, data: bytes) -> tuple[str, str, int, int] | None:
    parts = dict(attributes(data))
    ip, proto = dict(attributes(parts.get(_TUPLE_IP, b""))), dict(attributes(parts.get(_TUPLE_PROTO, b"")))
    source, target = _IP_ADDRESSES[family]
    if proto.get(_PROTO_NUM, b"\0")[0] != socket.IPPROTO_UDP or source not in ip or target not in ip:
        return None
    source_port = struct.unpack("!H", proto[_PROTO_SRC_PORT])[0]
    target_port = struct.unpack("!H", proto[_PROTO_DST_PORT])[0]
    return socket.inet_ntop(family, ip[source]), socket.inet_ntop(family, ip[target]), source_port, target_port


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    sock.settimeout(_TIMEOUT_S)
    sock.bind((0, 0))
    return sock


def _message(family: int, kind: int, flags: int, body: bytes) -> bytes:
    payload = struct.pack("=BBH", family, 0, 0) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def _replies(sock: socket.socket) -> Iterator[bytes]:
    while True:
        for kind, _flags, payload in messages(sock.recv(1 << 17)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                if code == _ENOENT:
                    raise FileNotFoundError("no such flow")
                if code:
                    raise OSError(code, "ctnetlink")
                return
            yield payload
