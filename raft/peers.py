"""Messages between members: one outgoing connection to each, redialled for ever; nothing waits for whoever is gone. IO.

Raft repeats whatever was lost, so a message for a member that cannot take it now is dropped and reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any

from raft.config import PEER_ROLE, Address
from raft.core.types import Message, MessageKind
from raft.errors import Invalid, Removed, StoreError
from raft.transport import Connection, dial
from raft.wire import Hello, frames_of, pack

log = logging.getLogger(__name__)
PROBE_S = 5.0
"""How often the round trip is measured."""
REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 0.5
DIAL_S = 1.0
"""Short: a SYN lost while a link was down is not repeated for seconds."""


class PeerLink:
    """Keeps a connection to one member."""

    def __init__(
        self,
        member: int,
        address: Address,
        tls: ssl.SSLContext | None,
        hello: Hello,
        round_trip: Callable[[int, float], None],
        removed: Callable[[], None],
    ) -> None:
        self.member = member
        self.address = address
        self._tls = tls
        self._hello = hello
        self.connection: Connection | None = None
        self.last_error = ""
        self.failures = 0
        self.disconnected = 0
        self._past_bytes = 0
        self._round_trip = round_trip
        self._removed = removed
        self._gone = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"link-{member}")

    async def _keep(self) -> None:
        pause_s = REDIAL_MIN_S
        while True:
            try:
                host, port, _ = self.address
                connection, _, member = await dial(host, port, self._tls, self._hello, (PEER_ROLE,), DIAL_S)
                if member != self.member:
                    connection.abort()
                    raise Invalid(f"{host}:{port} is member {member}, not {self.member}")
            except StoreError as error:
                if str(error) != self.last_error:
                    log.warning("member %d: %s", self.member, error)
                self.last_error = str(error)
                if isinstance(error, Removed):
                    self._removed()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, REDIAL_MAX_S)
                continue
            self._gone.clear()
            connection.on_frame = self._told
            connection.on_closed = self._gone.set
            self.connection, self.last_error, pause_s = connection, "", REDIAL_MIN_S
            log.info("member %d: connected at %s:%d", self.member, host, port)
            while not self._gone.is_set():
                connection.send(["ping", time.monotonic()])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S):  # wait_for may swallow a cancellation, and we would go on
                        await self._gone.wait()
            self.connection = None
            self.disconnected += 1
            self._past_bytes += connection.bytes_sent

    def _told(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) < 2:
            return
        if value[0] == "pong" and isinstance(value[1], float):
            self._round_trip(self.member, max(0.0, time.monotonic() - value[1]))
        elif value[0] == "error":
            log.warning("member %d refused a frame: %s", self.member, value[-1])

    @property
    def sent_bytes(self) -> int:
        return self._past_bytes + (self.connection.bytes_sent if self.connection is not None else 0)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self.connection is not None:
            self.connection.close()


class Peers:
    def __init__(
        self,
        own_id: int,
        cluster_id: str,
        tls: ssl.SSLContext | None,
        unreachable: Callable[[int], None],
        send_snapshot: Callable[[Message, Address], None],
        snapshot_lost: Callable[[int], None],
        round_trip: Callable[[int, float], None],
        removed: Callable[[], None],
    ) -> None:
        """``removed``: another member says that this one was removed from the group."""
        self._own_id = own_id
        self._tls = tls
        self._hello = Hello("peer", cluster_id, own_id)
        self._unreachable = unreachable
        self._send_snapshot = send_snapshot
        self._snapshot_lost = snapshot_lost
        self._round_trip = round_trip
        self._removed = removed
        self._links: dict[int, PeerLink] = {}
        self._closing: dict[asyncio.Task[None], None] = {}

    def set_members(self, addresses: dict[int, Address]) -> None:
        """Connect to those that are new or moved, let go of those that left."""
        for member, link in list(self._links.items()):
            if addresses.get(member) != link.address:
                del self._links[member]
                task = asyncio.get_running_loop().create_task(link.close())
                self._closing[task] = None
                task.add_done_callback(lambda t: self._closing.pop(t, None))
        for member, address in addresses.items():
            if member != self._own_id and member not in self._links:
                self._links[member] = PeerLink(member, address, self._tls, self._hello, self._round_trip, self._removed)

    def send(self, messages: list[Message]) -> None:
        by_member: dict[int, list[bytes]] = {}
        for message in messages:
            if message.kind is MessageKind.SNAPSHOT:
                self._snapshot(message)
            else:
                by_member.setdefault(message.to, []).append(pack(message.to_wire()))
        for member, packed in by_member.items():
            link = self._links.get(member)
            connection = link.connection if link is not None else None
            if link is None or connection is None or not connection.writable:
                if link is not None:
                    link.failures += 1
                asyncio.get_running_loop().call_soon(self._unreachable, member)
                continue
            for data in frames_of(packed):
                connection.send_bytes(data)

    def _snapshot(self, message: Message) -> None:
        link = self._links.get(message.to)
        if link is None:
            asyncio.get_running_loop().call_soon(self._snapshot_lost, message.to)
        else:
            self._send_snapshot(message, link.address)

    def links(self) -> list[tuple[int, PeerLink]]:
        return sorted(self._links.items())

    def connected(self) -> list[int]:
        return sorted(member for member, link in self._links.items() if link.connection is not None)

    async def close(self) -> None:
        for link in list(self._links.values()):
            await link.close()
        self._links = {}
        for task in list(self._closing):
            await task
