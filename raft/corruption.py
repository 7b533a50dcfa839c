"""Do all members have the same records? Asked again and again by the leader; an alarm stops writes if not. IO.

    leader: its own hash at revision R (records read again) ──> each member: the same at R ──> judge ──> CORRUPT alarm

Members that cannot say (they are gone, behind, or have compacted R away) are left out; asking again is the cure. The
question travels on a connection of purpose "hash" between peers: [revision] is answered by [True, hash, revision,
compacted] or [False, code, text].

What it finds: a disk that returns other bytes than were written, and a member that applied the log differently.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from raft.applier import CORRUPT
from raft.config import PEER_ROLE, Address
from raft.errors import Corrupt, Invalid, StoreError, Unavailable, from_wire
from raft.member import Member
from raft.transport import Connection, client_context, dial
from raft.wire import Hello

log = logging.getLogger(__name__)
ANSWER_S = 120.0


def judge(hashes: Mapping[int, int]) -> list[int]:
    """Who is wrong: whoever differs from more than half of those that answered; all of them if no half agrees. Pure."""
    if len(set(hashes.values())) <= 1:
        return []
    [(common, count)] = Counter(hashes.values()).most_common(1)
    if 2 * count <= len(hashes):
        return sorted(hashes)
    return sorted(member for member, digest in hashes.items() if digest != common)


class CorruptionCheck:
    def __init__(self, member: Member, interval_s: float) -> None:
        """``interval_s`` 0: never."""
        self._member = member
        self._interval_s = interval_s
        tls = member.config.peer_tls
        self._tls = None if tls is None else client_context(tls)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s or 1 << 30)
            if self._member.consensus.is_leader:
                try:
                    await self.check()
                except StoreError as error:
                    log.info("members' hashes were not compared: %s", error)

    async def check(self) -> dict[int, int]:
        """The hash of each member that could say; differences raise the alarm. Raises StoreError."""
        member = self._member
        await member.read_barrier()
        began = time.perf_counter()
        revision = member.store.revision
        hashes = {member.id: await self._own(revision)}
        member.metrics.hash_duration.observe(time.perf_counter() - began)
        others = {i: a for i, a in member.applier.members.addresses.items() if i != member.id}
        said = await asyncio.gather(*(self._ask(i, a, revision) for i, a in others.items()), return_exceptions=True)
        for other, answer in zip(others, said, strict=True):
            if isinstance(answer, int):
                hashes[other] = answer
            elif isinstance(answer, StoreError):
                log.info("member %d has no hash at revision %d: %s", other, revision, answer)
            else:
                raise answer
        wrong = judge(hashes)
        if wrong:
            texts = {i: f"{digest:016x}" for i, digest in hashes.items()}
            log.error("the members differ at revision %d: %s; raising the alarm for %s", revision, texts, wrong)
            for suspect in wrong:
                await member.run_command(("alarm", suspect, CORRUPT, True))
        return hashes

    async def _own(self, revision: int) -> int:
        try:
            return (await self._member.hash_at(revision))[0]
        except Corrupt:
            return -1  # a record is missing: as wrong as another hash

    async def _ask(self, member: int, address: Address, revision: int) -> int:
        """Raises StoreError."""
        hello = Hello("hash", self._member.applier.cluster_id, self._member.id)
        try:
            async with asyncio.timeout(ANSWER_S):
                connection, _, found = await dial(address[0], address[1], self._tls, hello, (PEER_ROLE,))
                try:
                    if found != member:
                        raise Invalid(f"{address[0]}:{address[1]} is member {found}, not {member}")
                    answer = await _answer(connection, revision)
                finally:
                    connection.close()
        except TimeoutError as error:
            raise Unavailable(f"member {member} does not answer") from error
        if answer[0] is True:
            return int(answer[1])
        if answer[1] == Corrupt.code:
            return -1
        raise from_wire(str(answer[1]), str(answer[2]))


async def _answer(connection: Connection, revision: int) -> list[Any]:
    answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def told(value: Any) -> None:
        if not answered.done():
            answered.set_result([False, value[1], value[2]] if value and value[0] == "error" else value)

    connection.on_frame = told
    connection.on_closed = lambda: told([False, Unavailable.code, "the connection broke"])
    connection.send([revision])
    return await answered


class HashService:
    """The other side: answers on a peer's connection of purpose "hash"."""

    def __init__(self, connection: Connection, member: Member) -> None:
        self._connection = connection
        self._member = member
        self._task: asyncio.Task[None] | None = None
        connection.on_frame = self._asked
        connection.on_closed = self._closed

    def _asked(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], int) or self._task is not None:
            raise Invalid("a question for a hash is [revision], once")
        self._task = asyncio.get_running_loop().create_task(self._answer(value[0]))

    async def _answer(self, revision: int) -> None:
        try:
            self._connection.send([True, *await self._member.hash_at(revision)])
        except StoreError as error:
            self._connection.send([False, error.code, str(error)])
        self._connection.close()

    def _closed(self) -> None:
        if self._task is not None:
            self._task.cancel()
