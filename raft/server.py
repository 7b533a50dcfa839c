"""StateServer: one member of the store as a component. IO.

    create_member(dir, cluster_id, id, members)   once, with the cluster     (or join_member, later)
    server = StateServer(StateConfig(dir=..., host=...)); await server.run()

``run`` opens the directory (locked: one process), catches up with its log, and serves until it is cancelled: then it
hands leadership over, makes its state durable and closes. It raises when the member cannot go on (a failed disk,
contradicting state, removal from the group): the process should exit, and may be started again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from raft.bootstrap import create_member, join_member
from raft.config import CLIENT_ROLE, PEER_ROLE, StateConfig, TlsFiles
from raft.core.errors import RaftError
from raft.core.types import Message
from raft.corruption import HashService
from raft.engines import open_log
from raft.errors import Invalid, Removed
from raft.member import Member, MemberRemoved
from raft.member_metrics import MemberMetrics
from raft.metrics import Metrics, MetricsServer
from raft.service import ClientService
from raft.snapshot_stream import SnapshotReceiver, clean_up
from raft.storage.identity import StateDirectory
from raft.transport import Connection, Listener, server_context
from raft.upkeep import upkeep
from raft.wire import Hello

__all__ = ["MemberRemoved", "StateConfig", "StateServer", "TlsFiles", "create_member", "join_member"]
log = logging.getLogger(__name__)
HAND_OVER_S = 1.0
GC_YOUNG = 20_000
"""Objects between two collections (Python: 700). Requests are freed by counting references, cycles are rare."""


class StateServer:
    def __init__(self, config: StateConfig) -> None:
        """Raises Invalid."""
        config.validate()
        self.config = config
        self.metrics = Metrics()
        self.member: Member | None = None
        self._ticked_at = 0.0
        self._clients: Listener | None = None
        self._peers: Listener | None = None
        self._shown: MemberMetrics | None = None

    def health(self) -> dict[str, object]:
        """Cheap, from any thread."""
        member = self.member
        if member is None:
            return {"healthy": False, "reason": "not running"}
        node, applier = member.consensus, member.applier
        late_s = time.monotonic() - self._ticked_at
        reason = ""
        if late_s > 5:
            reason = f"the loop stalls since {late_s:.1f} s"
        elif not node.leader:
            reason = "RAFT NO LEADER"
        elif applier.alarms:
            reason = "ALARM " + " ".join(kind for _, kind in applier.alarms)
        return {
            "healthy": not reason,
            "reason": reason,
            "member": member.id,
            "leader": node.leader,
            "term": node.term,
            "revision": applier.store.revision,
            "applied": applier.applied.index,
        }

    # --- running

    async def run(self) -> None:
        directory = StateDirectory.open(self.config.dir, faults=self.config.faults)
        try:
            await self._run_in(directory)
        finally:
            self.member = None
            directory.close()

    async def _run_in(self, directory: StateDirectory) -> None:
        opened = open_log(self.config, directory)
        try:
            member = Member(self.config, directory, opened, self.metrics, self._close_clients)
        except BaseException:
            opened.close()
            raise
        clean_up(directory.path)
        self._prepare_process()
        metrics = MetricsServer(self.metrics, self.health)
        self.member, self._ticked_at = member, time.monotonic()
        try:
            self._shown = await self._listen(member)
            self.metrics.registry.register(self._shown)
            if self.config.metrics is not None:
                await metrics.start(*self.config.metrics)
            log.info("member %d of %s serves at %s", member.id, member.applier.cluster_id, self.config.host)
            await self._until_one_ends(member)
        finally:
            gc.callbacks.remove(self._on_gc)
            await metrics.close()
            if self._shown is not None:
                self.metrics.registry.unregister(self._shown)
                self._shown = None
            for listener in (self._clients, self._peers):
                if listener is not None:
                    await listener.close()
            await member.close()

    def _prepare_process(self) -> None:
        """What was loaded stays for good: no collection has to look at it again. And threads take turns sooner.

        At the default 5 ms, the log's thread would wait that long for the interpreter after each sync.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_YOUNG, 20, 100)
        sys.setswitchinterval(min(sys.getswitchinterval(), 0.0005))
        self._gc_began = 0.0
        gc.callbacks.append(self._on_gc)

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._gc_began = now
        else:
            self.metrics.gc_pause.observe(now - self._gc_began)

    async def _until_one_ends(self, member: Member) -> None:
        consensus = asyncio.create_task(member.consensus.run(), name="consensus")
        work: list[Coroutine[Any, Any, None]] = [
            self._tick(member),
            member.flusher.run(),
            *upkeep(member),
        ]
        tasks = [consensus, *(asyncio.create_task(coroutine) for coroutine in work)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("a part of the member ended by itself")
        except asyncio.CancelledError:
            await self._hand_over(member)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _hand_over(self, member: Member) -> None:
        """Leadership to the voter that has most of the log, so that nobody waits for an election."""
        status = member.consensus.status()
        others = [
            (peer.match, other)
            for other, peer in status.progress.items()
            if other != member.id and peer.active and other in status.conf.voters
        ]
        if status.leader != member.id or not others:
            return
        try:
            member.consensus.transfer_leader(max(others)[1])
        except RaftError as error:
            log.warning("cannot hand leadership over: %s", error)
            return
        until = time.monotonic() + HAND_OVER_S
        while member.consensus.is_leader and time.monotonic() < until:  # noqa: ASYNC110 - at the end, once
            await asyncio.sleep(0.01)

    # --- listening

    async def _listen(self, member: Member) -> MemberMetrics:
        config, service = self.config, ClientService(member, self.config)

        def listener(port: str, accept: Callable[[Connection, Hello], None], role: str, *purposes: str) -> Listener:
            return Listener(
                accept,
                role=role,
                purposes=purposes,
                cluster_id=member.directory.identity.cluster_id,
                member_id=member.id,
                on_refused=lambda reason: self.metrics.refused.labels(port, reason).inc(),
                max_connections=config.max_connections,
            )

        self._peers = listener("peer", self._accept_peer, PEER_ROLE, "peer", "snapshot", "hash")
        self._clients = listener("client", service.accept, CLIENT_ROLE, "client", "snapshot")
        client_tls = config.client_tls or config.peer_tls
        await self._peers.start(
            config.host, config.peer_port, None if config.peer_tls is None else server_context(config.peer_tls)
        )
        await self._clients.start(
            config.host, config.client_port, None if client_tls is None else server_context(client_tls)
        )
        return MemberMetrics(member, service, self._clients, self._peers)

    def _accept_peer(self, connection: Connection, hello: Hello) -> None:
        member = self.member
        if member is None:
            raise Invalid("not running")
        if hello.member_id in member.applier.members.removed:
            raise Removed(f"member {hello.member_id} was removed from the group")
        if hello.purpose == "snapshot":
            SnapshotReceiver(
                connection,
                member.directory.path,
                member.consensus.step,
                lambda index: index > member.applier.applied.index,
            )
        elif hello.purpose == "hash":
            HashService(connection, member)
        else:
            connection.on_frame = lambda value: self._step(member, hello.member_id, value, connection)
            connection.on_closed = lambda: member.consensus.disconnected(hello.member_id)

    @staticmethod
    def _step(member: Member, sender: int, value: Any, connection: Connection) -> None:
        if isinstance(value, list) and len(value) == 2 and value[0] == "ping":
            connection.send(["pong", value[1]])
            return
        if sender in member.applier.members.removed:  # since it connected
            raise Removed(f"member {sender} was removed from the group")
        try:
            messages = [Message.from_wire(wire) for wire in value]
        except (TypeError, ValueError, IndexError) as error:
            raise Invalid(f"malformed message: {error}") from error
        if any(message.sender != sender for message in messages):
            raise Invalid(f"member {sender} speaks for another")
        try:
            member.consensus.step(messages)
        except RaftError as error:
            member.consensus.fail(error)

    def _close_clients(self) -> None:
        if self._clients is not None:
            for connection in list(self._clients.connections.values()):
                connection.close()

    # --- what recurs

    async def _tick(self, member: Member) -> None:
        """A stall of the loop counts as one tick, not as the silence of a leader that we did not listen to."""
        interval_s = self.config.tick_ms / 1000
        while True:
            due = time.monotonic() + interval_s
            await asyncio.sleep(interval_s)
            self._ticked_at = time.monotonic()
            self.metrics.loop_lag.observe(max(0.0, self._ticked_at - due))
            member.consensus.tick()
