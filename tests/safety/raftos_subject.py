"""The engine raftos, upstream's code and the store's adapter, on virtual time and a captured wire, as a Subject."""

from __future__ import annotations

import binascii
import shutil
import tempfile
from pathlib import Path
from typing import Any

from raft.config import StateConfig
from raft.core.memory import bootstrap_meta
from raft.core.types import ConfChange, ConfState, Entry, Message, SnapshotMeta, SoftState
from raft.engine import EngineParts
from raft.engines.raftos_engine import DEFLATED, EMPTY, PLAIN, RaftosEngine
from raft.engines.raftos_library import Wire, load
from raft.errors import Invalid, StoreError
from raft.wire import pack, unpack
from tests.safety.safety_subject import Item, Refused
from tests.safety.sim_loop import Address, SimLoop
from tests.sim.sim_world import Clock

TICK_MS = 50
ADDRESSES = {member: (f"10.0.0.{member}", 2380, 2379) for member in (1, 2, 3)}


class Machine:
    """A state machine that only remembers; ``answered`` is the engine's."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.engine: RaftosEngine | None = None

    def apply(self, entry: Entry) -> None:
        self.entries.append(entry)
        for origin, sequence, commands in _proposed(entry.data):
            if self.engine is not None:
                self.engine.answered(origin, sequence, [entry.index] * len(commands))

    def apply_membership(self, entry: Entry, change: ConfChange, conf: ConfState) -> None:
        raise NotImplementedError

    async def install(self, meta: SnapshotMeta) -> None:
        raise NotImplementedError

    def led_by(self, soft: SoftState, term: int) -> None:
        pass


def _proposed(data: bytes) -> list[tuple[bytes, int, list[Any]]]:
    """What Proposals made of commands; nothing for what a rule wrote into the log itself."""
    try:
        value = unpack(data)
    except Invalid:
        return []
    return [(value[1], value[2], value[3])] if isinstance(value, list) and len(value) == 4 else []


def payloads(data: bytes) -> list[bytes]:
    found = _proposed(data)
    return [bytes(command) for command in found[0][2]] if found else [data]


def start_engine(
    loop: SimLoop, member: int, folder: Path, machine: Machine, send: Any, members: tuple[int, ...] = (1, 2, 3)
) -> RaftosEngine:
    """Without encryption, which takes a tenth of a second to derive its key and changes no rule. Raises StoreError."""
    library = load()
    library.cryptors.Cryptor = library.cryptors.DummyCryptor
    parts = EngineParts(
        id=member,
        config=StateConfig(dir=folder, host="127.0.0.1", tick_ms=TICK_MS, engine="raftos"),
        applied=bootstrap_meta(ConfState(members)),
        addresses={m: (f"10.0.0.{m}", 2380, 2379) for m in members},
        machine=machine,
        send=send,
        observe_sync=lambda _: None,
    )
    engine: RaftosEngine = loop.now(lambda: RaftosEngine(parts, library, str(folder), b"k" * 32))
    machine.engine = engine
    loop.create_task(engine.run()).add_done_callback(lambda task: task.cancelled() or task.exception())
    return engine


class RaftosSubject:
    name = "raftos"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sk8-safety-"))
        self._clock = Clock()
        self._loop = SimLoop(self._clock)
        self._loop.datagrams = self._capture
        self._sent: list[tuple[Address, dict[str, Any]]] = []
        self._reads = 0
        self._start()

    def _start(self) -> None:
        self._machine = Machine()
        try:
            self._engine = start_engine(self._loop, 1, self._folder, self._machine, lambda _: None)
        except StoreError as error:
            raise Refused(str(error)) from error
        self.wait(1)

    def _capture(self, sender: Address, to: Address, data: bytes) -> None:
        self._sent.append((to, Wire.unpack(data)))

    def wait(self, ms: float) -> None:
        """The server ticks the engine, so here it is ticked too."""
        until = self._clock.now_ms + ms
        while self._clock.now_ms < until:
            self._clock.run_until(min(until, self._clock.now_ms + TICK_MS))
            self._loop.now(self._engine.tick)
        self._clock.run_until(until)

    # --- others speak

    def _tell(self, member: int, message: dict[str, Any]) -> None:
        self._sent.clear()
        address = ADDRESSES[member][:2]
        self._loop.deliver(address, ADDRESSES[1][:2], Wire.pack(message))
        self._clock.run_until(self._clock.now_ms + 2)

    def _ask(self, member: int, message: dict[str, Any], field: str) -> bool | None:
        self._tell(member, message)
        found = [
            m for to, m in self._sent if to == ADDRESSES[member][:2] and m["type"] == f"{message['type']}_response"
        ]
        return None if not found else bool(found[-1].get(field, False))

    def vote(self, candidate: int, term: int, position: int, log_term: int) -> bool | None:
        message = {"type": "request_vote", "term": term, "candidate_id": _id(candidate)}
        message |= {"last_log_index": position, "last_log_term": log_term}
        return self._ask(candidate, message, "vote_granted")

    def append(
        self, leader: int, term: int, position: int, log_term: int, items: list[Item], commit: int
    ) -> bool | None:
        entries = [{"term": item.term, "command": {"d": item.data, "k": PLAIN}} for item in items]
        message = {"type": "append_entries", "term": term, "leader_id": _id(leader), "commit_index": commit}
        message |= {"request_id": 1, "prev_log_index": position, "prev_log_term": log_term, "entries": entries}
        return self._ask(leader, message, "success")

    def vote_answer(self, voter: int, term: int, granted: bool) -> None:
        self._tell(voter, {"type": "request_vote_response", "term": term, "vote_granted": granted})

    def append_answer(self, follower: int, term: int, position: int) -> None:
        leader = self._engine._leading()
        message = {"type": "append_entries_response", "term": term, "success": True, "last_log_index": position}
        self._tell(follower, message | {"request_id": leader.request_id if leader is not None else 0})

    # --- by itself

    def stand(self) -> int:
        before = self.term
        for _ in range(500):
            self.wait(10)
            if self.term > before:
                break
        return self.term

    def lead(self) -> int:
        term = self.stand()
        self.vote_answer(2, term, granted=True)
        return term

    def propose(self, data: bytes) -> None:
        try:
            self._loop.now(lambda: self._engine.submit(pack(data), lambda _: None))
        except StoreError as error:
            raise Refused(str(error)) from error
        self._clock.run_until(self._clock.now_ms + 2)

    def read(self) -> None:
        def served(error: Any) -> None:
            self._reads += error is None

        self._loop.now(lambda: self._engine.read(served))
        self._clock.run_until(self._clock.now_ms + 2)

    # --- looking

    @property
    def term(self) -> int:
        return self._engine.term

    @property
    def leads(self) -> bool:
        return self._engine.is_leader

    @property
    def items(self) -> list[Item]:
        found: list[Item] = []
        for entry in self._engine._log.cache:
            if entry["command"]["k"] not in (EMPTY, DEFLATED):
                found += [Item(entry["term"], data) for data in payloads(entry["command"]["d"])]
        return found

    @property
    def positions(self) -> int:
        return int(self._engine._log.last_log_index)

    @property
    def applied(self) -> list[bytes]:
        return [data for entry in self._machine.entries if entry.data for data in payloads(entry.data)]

    @property
    def reads_served(self) -> int:
        return self._reads

    # --- its machine

    @property
    def _log_file(self) -> Path:
        return next(self._folder.glob("*.log"))

    def _stop(self) -> None:
        self._loop.now(self._engine.stop)
        self._engine.fail(Invalid("stopped"))
        self._clock.run_until(self._clock.now_ms + 1)

    def kill(self) -> None:
        self._stop()
        self._start()

    def cut_power(self) -> None:
        """raftos syncs nothing, ever: the kernel may have written none of it."""
        self._stop()
        for path in self._folder.iterdir():
            path.write_bytes(b"")
        self._start()

    def tear(self) -> None:
        self._stop()
        data = self._log_file.read_bytes()
        self._log_file.write_bytes(data[:-5])
        self._start()

    def damage(self) -> None:
        self._stop()
        lines = self._log_file.read_bytes().splitlines(keepends=True)
        raws = [binascii.a2b_base64(line) for line in lines]
        number = next(i for i, raw in enumerate(raws) if b"damage me" in raw)
        raw = raws[number].replace(b"damage me", b"damaged !")
        lines[number] = binascii.b2a_base64(raw)
        self._log_file.write_bytes(b"".join(lines))
        self._start()

    def fail_sync(self) -> None:
        """It calls no sync that could fail."""

    def close(self) -> None:
        self._stop()
        self._loop.end()
        shutil.rmtree(self._folder)


def _id(member: int) -> str:
    return f"10.0.0.{member}:2380"


__all__ = ["Machine", "Message", "RaftosSubject", "payloads", "start_engine"]
