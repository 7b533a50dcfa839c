"""A few members in one place with an instant, obedient network: for tests that are scripts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from raft.core.config import Config
from raft.core.memory import MemoryStorage
from raft.core.node import RawNode
from raft.core.types import (
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Ready,
    Role,
    Snapshot,
    SnapshotMeta,
)

__all__ = ["Host", "Net", "entry"]


def entry(term: int, index: int, data: bytes = b"x") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, data)


class Host:
    """One member, persisting and applying at once unless told to hold."""

    def __init__(self, member: int, storage: MemoryStorage, **config: object) -> None:
        self.id = member
        self.storage = storage
        self.config = config
        self.applied: list[Entry] = []
        self.reads: list[tuple[int, bytes]] = []
        self.held: list[Ready] = []
        self.hold_writes = False
        self.hold_applies = False
        self.unapplied: list[Entry] = []
        self.restart()

    def restart(self) -> None:
        settings: dict[str, object] = {"id": self.id, "rng": random.Random(self.id), **self.config}
        self.node = RawNode(Config(**settings), self.storage)  # type: ignore[arg-type]
        self.held.clear()
        self.unapplied.clear()

    def drain(self) -> list[Message]:
        out: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            out += ready.messages
            self.reads += [(r.index, r.context) for r in ready.read_states]
            self.unapplied += ready.committed_entries
            self.held.append(ready)
            if not self.hold_writes:
                out += self.persist()
            if not self.hold_applies:
                self.apply()
        return out

    def persist(self) -> list[Message]:
        out: list[Message] = []
        for ready in self.held:
            if ready.snapshot is not None:
                self.storage.apply_snapshot(ready.snapshot)
            self.storage.append(ready.entries)
            if ready.hard_state is not None:
                self.storage.set_hard_state(ready.hard_state)
            out += ready.persisted_messages
            self.node.on_persisted(ready.number)
        self.held.clear()
        return out

    def apply(self) -> None:
        for e in self.unapplied:
            if e.kind == EntryKind.CONF_CHANGE:
                self.node.apply_conf_change(ConfChange.decode(e.data))
            self.applied.append(e)
            self.node.advance_applied(e.index)
        self.unapplied.clear()

    def compact(self) -> None:
        """A snapshot of what is applied, and no entries before it."""
        status = self.node.status()
        term = self.storage.term(status.applied)
        self.storage.set_snapshot(Snapshot(SnapshotMeta(status.applied, term, status.conf), b"state"))
        self.storage.compact(status.applied)

    @property
    def role(self) -> Role:
        return self.node.status().role

    def data(self) -> list[bytes]:
        return [e.data for e in self.applied if e.data and e.kind == EntryKind.NORMAL]


class Net:
    def __init__(self, size: int = 3, *, learners: Sequence[int] = (), **config: object) -> None:
        conf = ConfState(tuple(range(1, size + 1)), tuple(learners))
        self.config = config
        self.hosts = {m: Host(m, MemoryStorage.bootstrap(conf), **config) for m in conf.members()}
        self.lost: Callable[[Message], bool] = lambda m: False
        self.log: list[Message] = []

    def __getitem__(self, member: int) -> Host:
        return self.hosts[member]

    def with_log(self, member: int, terms: Sequence[int], term: int = 0, vote: int = 0) -> None:
        """Restart a member with entries of these terms after the bootstrap entry."""
        storage = MemoryStorage.bootstrap(self.hosts[member].storage.initial_state()[1])
        storage.append([entry(t, i) for i, t in enumerate(terms, start=2)])
        storage.set_hard_state(HardState(term or max([1, *terms]), vote, 1))
        self.hosts[member] = Host(member, storage, **self.config)

    def join(self, member: int) -> Host:
        self.hosts[member] = Host(member, MemoryStorage(), **self.config)
        return self.hosts[member]

    def isolate(self, *members: int) -> None:
        self.lost = lambda m: m.to in members or m.sender in members

    def heal(self) -> None:
        self.lost = lambda m: False

    def settle(self) -> None:
        """Deliver until nothing is left."""
        for _ in range(10_000):
            queue = [m for host in self.hosts.values() for m in host.drain()]
            if not queue:
                return
            for message in queue:
                self.log.append(message)
                if message.to in self.hosts and not self.lost(message):
                    self.hosts[message.to].node.step(Message.from_wire(message.to_wire()))
        raise AssertionError("the members never stop talking")

    def tick(self, times: int = 1, *, only: Sequence[int] = ()) -> None:
        for _ in range(times):
            for member, host in list(self.hosts.items()):
                if not only or member in only:
                    host.node.tick()
            self.settle()

    def elect(self, member: int) -> Host:
        """Make it leader, after everybody's patience has run out."""
        host = self.hosts[member]
        for _ in range(4):
            if host.role is Role.LEADER:
                return host
            for other in self.hosts.values():
                if other is not host:
                    other.node._r.election_elapsed = other.node._r.config.election_ticks
            host.node.campaign()
            self.settle()
        assert host.role is Role.LEADER
        return host

    def propose(self, member: int, *payloads: bytes) -> None:
        self.hosts[member].node.propose(list(payloads))
        self.settle()

    def sent(self, kind: MessageKind, sender: int = 0) -> list[Message]:
        return [m for m in self.log if m.kind is kind and sender in (0, m.sender)]
