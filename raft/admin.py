"""Operations of operators and of the group's keeper: leases, members, leadership, compaction, alarms, hash. IO.

Each is a coroutine whose result goes on the wire; what needs the leader raises NotLeader elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from raft.config import Address
from raft.core.errors import ConfChangeRefused, ProposalDropped, RaftError
from raft.core.errors import NotLeader as CoreNotLeader
from raft.core.types import ConfChange, add_learner, add_voter, remove_member
from raft.errors import Invalid, NotLeader, OutcomeUnknown, StoreError, TooManyRequests, Unavailable
from raft.member import Member
from raft.membership import encode_address
from raft.snapshot_stream import send_file
from raft.storage.backend_lmdb import data_file
from raft.transport import Connection

log = logging.getLogger(__name__)
CHANGE_S = 10.0


def _check_ints(**arguments: Any) -> None:
    """Before anything gets into the log, where it would have to be understood by every member. Raises Invalid."""
    for name, value in arguments.items():
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise Invalid(f"etcdserver: {name} is {value!r}: must be a number of 63 bits")


class Admin:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._saves = 0
        self._streams: dict[asyncio.Task[None], None] = {}

    # --- leases and history

    async def lease_grant(self, ttl_s: int, lease_id: int) -> list[int]:
        _check_ints(ttl_s=ttl_s, lease_id=lease_id)
        if ttl_s <= 0:
            raise Invalid("etcdserver: a lease needs ttl_s > 0 and an id of 63 bits (0: any)")
        ident = lease_id or secrets.randbits(62) + 1
        return [ident, await self._member.run_command(("grant", ident, ttl_s))]

    async def lease_revoke(self, lease_id: int) -> int:
        _check_ints(lease_id=lease_id)
        revision: int = await self._member.run_command(("revoke", lease_id))
        return revision

    async def lease_time_to_live(self, lease_id: int) -> list[Any]:
        """[seconds left by the leader's clock, ttl, keys]."""
        _check_ints(lease_id=lease_id)
        await self._member.read_barrier()
        self._need_leader()
        leases = self._member.store.leases
        lease = leases.get(lease_id)
        return [leases.remaining_s(lease_id, self._member.clock()), lease.ttl_s, sorted(lease.keys)]

    async def lease_list(self) -> list[int]:
        await self._member.read_barrier()
        return self._member.store.leases.ids()

    async def compact(self, revision: int) -> int:
        _check_ints(revision=revision)
        compacted: int = await self._member.run_command(("compact", revision))
        return compacted

    # --- members

    async def member_list(self) -> list[list[Any]]:
        await self._member.read_barrier()
        applier = self._member.applier
        return applier.members.listing(applier.applied.conf)

    async def member_add(self, member_id: int, host: str, peer_port: int, client_port: int) -> list[list[Any]]:
        """As a learner."""
        _check_ints(member_id=member_id, peer_port=peer_port, client_port=client_port)
        if not isinstance(host, str):
            raise Invalid("etcdserver: a member's host must be text")
        await self._leading()
        address: Address = (host, peer_port, client_port)
        self._member.applier.members.check_add(member_id, address, self._member.applier.applied.conf)
        return await self._change(add_learner(member_id, encode_address(address)), member_id, present=True)

    async def member_promote(self, member_id: int) -> list[list[Any]]:
        _check_ints(member_id=member_id)
        await self._leading()
        self._member.applier.members.check_promote(member_id, self._member.consensus.status())
        return await self._change(add_voter(member_id), member_id, present=True, voter=True)

    async def member_remove(self, member_id: int) -> list[list[Any]]:
        _check_ints(member_id=member_id)
        await self._leading()
        self._member.applier.members.check_remove(member_id, self._member.consensus.status())
        return await self._change(remove_member(member_id), member_id, present=False)

    async def _leading(self) -> None:
        self._need_leader()
        await self._member.read_barrier()

    def _need_leader(self) -> None:
        node = self._member.consensus
        if not node.is_leader:
            raise NotLeader(node.leader)

    async def _change(
        self, change: ConfChange, member_id: int, *, present: bool, voter: bool = False
    ) -> list[list[Any]]:
        try:
            proposed = self._member.consensus.propose_membership(change)
        except CoreNotLeader as error:
            raise NotLeader(error.leader) from error
        except ConfChangeRefused as error:
            raise Unavailable(f"etcdserver: re-configuration failed: {error}") from error
        except ProposalDropped as error:
            raise TooManyRequests(f"etcdserver: too many requests ({error})") from error
        applier = self._member.applier
        deadline = asyncio.get_running_loop().time() + CHANGE_S
        while applier.applied.index < proposed.last or applier.applied.conf.voters_outgoing:
            if asyncio.get_running_loop().time() > deadline:
                raise OutcomeUnknown("etcdserver: request timed out; look at member_list")
            await asyncio.sleep(0.01)
        conf = applier.applied.conf
        if (member_id in conf.members()) is not present or (voter and member_id not in conf.voters):
            raise Unavailable("etcdserver: re-configuration failed: leader changed")
        return applier.members.listing(conf)

    async def transfer_leader(self, to: int) -> int:
        """Returns who leads now."""
        _check_ints(to=to)
        self._need_leader()
        consensus = self._member.consensus
        try:
            consensus.transfer_leader(to)
        except RaftError as error:
            raise Invalid(f"etcdserver: {error}") from error
        for _ in range(300):
            await asyncio.sleep(0.01)
            if consensus.leader == to:
                return to
        raise Unavailable(f"etcdserver: request timed out: member {to} did not take over")

    # --- looking

    async def status(self) -> dict[str, Any]:
        return self._member.status()

    async def hash(self) -> list[int]:
        """[hash, revision, compacted revision, applied index] of this member's state, here and now."""
        store = self._member.store
        return [store.hash, store.revision, store.compacted, self._member.applier.applied.index]

    async def hash_kv(self, revision: int) -> list[int]:
        """[hash, revision, compacted revision] of this member's records at ``revision`` (0: now), read again."""
        _check_ints(revision=revision)
        return list(await self._member.hash_at(revision))

    async def alarm_list(self) -> list[list[Any]]:
        await self._member.read_barrier()
        return self._member.applier.alarms

    async def alarm_disarm(self) -> list[list[Any]]:
        """Every alarm; one that still has its reason comes back."""
        for member, kind in list(self._member.applier.alarms):
            await self._member.run_command(("alarm", member, kind, False))
        return self._member.applier.alarms

    OPERATIONS: ClassVar[dict[str, Callable[..., Coroutine[Any, Any, Any]]]] = {
        operation.__name__: operation
        for operation in (
            lease_grant,
            lease_revoke,
            lease_time_to_live,
            lease_list,
            compact,
            member_list,
            member_add,
            member_promote,
            member_remove,
            transfer_leader,
            status,
            hash,
            hash_kv,
            alarm_list,
            alarm_disarm,
        )
    }

    # --- backup

    def save_snapshot(self, connection: Connection) -> None:
        """Once asked: stream [cluster id, index, term, size] [bytes]... [sha256]: a copy of this member's backend."""
        connection.on_frame = None
        self._saves += 1
        task = asyncio.get_running_loop().create_task(self._save(connection, self._saves))
        self._streams[task] = None
        task.add_done_callback(lambda t: self._streams.pop(t, None))

        def gone() -> None:
            task.cancel()

        connection.on_closed = gone

    async def _save(self, connection: Connection, number: int) -> None:
        try:
            async with self._member.copied(f"save-{number}") as (directory, meta):
                head = [self._member.applier.cluster_id, meta.index, meta.term]
                await send_file(connection, data_file(directory), head)
        except (StoreError, OSError) as error:
            log.warning("cannot save a snapshot for %s: %s", connection.peer, error)
            connection.send([False, str(error)])
        finally:
            connection.close()
