"""The native engine's core on the simulation's disk, as a Subject."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from raft.core.memory import BOOTSTRAP_INDEX, BOOTSTRAP_TERM
from raft.core.types import ConfState, Entry, EntryKind, Message, MessageKind, Role
from raft.errors import StoreError
from raft.storage.errors import StorageError
from tests.safety.safety_subject import Item, Refused
from tests.sim.sim_checker import Checker
from tests.sim.sim_member import SimMember, Tuning, World
from tests.sim.sim_world import Clock, Network

K = MessageKind


class _Wire(Network):
    """Keeps what the member sends."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, random.Random(1))
        self.sent: list[Message] = []

    def send(self, sender: int, to: int, wire: Any, deliver: Any) -> bool:
        self.sent.append(Message.from_wire(wire))
        return True


class _Silent(Checker):
    """The rules look for themselves."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"leader", "sent", "logged", "commits", "learns", "applies", "installs", "acknowledge"}:
            return lambda *_: None
        return super().__getattribute__(name)


class _Served(_Silent):
    def served_read(self, member: int, needed: int, applied: int) -> None:
        self.reads += 1


class NativeSubject:
    name = "native"

    def __init__(self) -> None:
        self._clock = Clock()
        self._wire = _Wire(self._clock)
        self._checker = _Served()
        others: dict[int, Any] = {2: SimpleNamespace(up=True), 3: SimpleNamespace(up=True)}
        self._world = World(self._clock, self._wire, random.Random(1), self._checker, others, Tuning())
        self._applied: list[bytes] = []
        self._reads = 0
        self._member = SimMember(self._world, 1, ConfState((1, 2, 3)))
        self._quick()

    def _quick(self) -> None:
        member = self._member
        member.fsync_ms, member.apply_ms = (0.1, 0.1), (0.0,)
        original = member._apply_one

        def apply_one(entry: Entry) -> None:
            original(entry)
            if entry.kind == EntryKind.NORMAL and entry.data:
                self._applied.append(entry.data)

        member._apply_one = apply_one  # type: ignore[method-assign]

    def wait(self, ms: float) -> None:
        self._clock.run_until(self._clock.now_ms + ms)

    # --- others speak

    def _ask(self, message: Message, answer: MessageKind) -> bool | None:
        self._wire.sent.clear()
        self._member.receive(message.to_wire())
        self.wait(2)
        found = [m for m in self._wire.sent if m.kind is answer and m.to == message.sender]
        if not found:
            return None
        return not found[-1].reject and found[-1].term == message.term  # of a later term: a refusal

    def vote(self, candidate: int, term: int, position: int, log_term: int) -> bool | None:
        index, log_term = _place(position, log_term)
        return self._ask(Message(K.VOTE, 1, candidate, term, log_term, index), K.VOTE_RESP)

    def append(
        self, leader: int, term: int, position: int, log_term: int, items: list[Item], commit: int
    ) -> bool | None:
        index, log_term = _place(position, log_term)
        entries = [Entry(item.term, index + 1 + i, EntryKind.NORMAL, item.data) for i, item in enumerate(items)]
        message = Message(K.APPEND, 1, leader, term, log_term, index, entries, commit + BOOTSTRAP_INDEX)
        return self._ask(message, K.APPEND_RESP)

    def vote_answer(self, voter: int, term: int, granted: bool) -> None:
        self._member.receive(Message(K.VOTE_RESP, 1, voter, term, reject=not granted).to_wire())
        self.wait(2)

    def append_answer(self, follower: int, term: int, position: int) -> None:
        self._member.receive(Message(K.APPEND_RESP, 1, follower, term, index=position + BOOTSTRAP_INDEX).to_wire())
        self.wait(2)

    # --- by itself

    def stand(self) -> int:
        self.wait(3000)
        node = self._member.node
        if node._r.role is Role.PRE_CANDIDATE:
            self._member.receive(Message(K.PRE_VOTE_RESP, 1, 2, node.term + 1).to_wire())
        self.wait(2)
        return node.term

    def lead(self) -> int:
        term = self.stand()
        self.vote_answer(2, term, granted=True)
        return term

    def propose(self, data: bytes) -> None:
        self._member.propose([data], lambda _: None)
        self.wait(2)

    def read(self) -> None:
        self._reads += 1
        self._member.read(b"read %d" % self._reads)
        self.wait(2)

    # --- looking

    @property
    def term(self) -> int:
        return self._member.node.term

    @property
    def leads(self) -> bool:
        return self._member.node.is_leader

    @property
    def items(self) -> list[Item]:
        log = self._member.node._r.log
        entries = log.entries(log.first_index(), log.last_index() + 1)
        return [Item(e.term, e.data) for e in entries if e.data]

    @property
    def positions(self) -> int:
        return self._member.node._r.log.last_index() - BOOTSTRAP_INDEX

    @property
    def applied(self) -> list[bytes]:
        return self._applied

    @property
    def reads_served(self) -> int:
        return self._checker.reads

    # --- its machine

    def _start(self) -> None:
        self._applied.clear()
        try:
            self._member.start()
        except (StorageError, StoreError) as error:
            raise Refused(str(error)) from error

    def kill(self) -> None:
        self._member.up = False
        self._start()

    def cut_power(self) -> None:
        self._member.crash()
        self._start()

    def tear(self) -> None:
        del self._member.disk._data[-5:]
        self.kill()

    def damage(self) -> None:
        data = self._member.disk._data
        at = data.index(b"damage me")
        data[at] ^= 1
        self.kill()

    def fail_sync(self) -> None:
        self._member.fsync_ms = (1e12, 1e12)  # the writer ends with the first failure: nothing is ever synced again

    def close(self) -> None:
        pass


def _place(position: int, log_term: int) -> tuple[int, int]:
    return position + BOOTSTRAP_INDEX, log_term if position else BOOTSTRAP_TERM
