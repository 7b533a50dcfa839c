"""A whole group on the engine raftos under a seeded nemesis, as tests/sim does with the native core. Virtual time.

Checked: one leader a term; one entry at an index on every member; what was acknowledged stays; reads see what was
acknowledged before; a member that notices a contradiction stops; and after everything healed, the group works again.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from raft.core.types import Entry, Message
from raft.engines.raftos_engine import RaftosEngine
from raft.errors import Corrupt, StoreError
from raft.wire import pack
from tests.safety.raftos_subject import TICK_MS, Machine, start_engine
from tests.safety.sim_loop import SimLoop, over
from tests.sim.sim_world import Clock, Network, SimFailure

MEMBERS = (1, 2, 3)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
FAULTY_MS = 3000.0
HEAL_MS = 8000.0
HEAL_EVENTS = 30_000
"""To raftos a heartbeat to a member that is behind begins another conversation with it, and each cuts off what another
appended: there may be more of them all the time. A group that needs more events than this to agree has not healed."""
WRITTEN_BACK_MS = 1000.0
"""A power cut loses what was written within this time: the kernel would have kept it for up to thirty seconds."""


class _Recorder(Machine):
    def __init__(self, group: Group, member: int) -> None:
        super().__init__()
        self._group, self._member = group, member

    def apply(self, entry: Entry) -> None:
        self._group.applies(self._member, entry)
        super().apply(entry)


class Member:
    def __init__(self, group: Group, member: int, folder: Path) -> None:
        self.group, self.id, self.folder = group, member, folder
        self.life = 0
        self.engine: RaftosEngine | None = None
        self._disk: list[tuple[float, dict[str, bytes]]] = []

    def start(self) -> None:
        self.life += 1
        try:
            self.engine = start_engine(
                self.group.loop, self.id, self.folder, _Recorder(self.group, self.id), self.group.send
            )
        except Corrupt as error:
            raise SimFailure(f"member {self.id} does not start again: {str(error).split(': ', 1)[-1]}") from error
        self.engine._library.state.random = random.Random(self.group.rng.randrange(1 << 30))
        self._tick(self.life)

    def _tick(self, life: int) -> None:
        if self.engine is None or self.life != life:
            return
        self.group.loop.now(self.engine.tick)
        now = self.group.clock.now_ms
        self._disk = [past for past in self._disk if past[0] > now - WRITTEN_BACK_MS]
        self._disk.append((now, {path.name: path.read_bytes() for path in self.folder.iterdir()}))
        self.group.clock.after(TICK_MS, lambda: self._tick(life))

    def crash(self, *, power_cut: bool) -> None:
        if self.engine is None:
            return
        self.group.loop.now(self.engine.stop)
        self.engine, self.life = None, self.life + 1
        if power_cut and self._disk:
            for name, data in self.group.rng.choice(self._disk)[1].items():
                (self.folder / name).write_bytes(data)
        self._disk = []


class Group:
    def __init__(self, seed: int, root: Path, *, power_cuts: bool) -> None:
        self.rng = random.Random(seed)
        self.power_cuts = power_cuts
        self.clock = Clock()
        self.network = Network(self.clock, self.rng)
        self.loop = SimLoop(self.clock)
        self.loop.datagrams = over(self.network, self.loop, {(f"10.0.0.{m}", 2380): m for m in MEMBERS})
        self.faulty = True
        self.leaders: dict[int, int] = {}
        self.entries: dict[int, bytes] = {}
        self.acknowledged: dict[int, bytes] = {}
        self.acks = self.reads = 0
        self.failure = ""
        self._counter = 0
        self.members = {m: Member(self, m, root / str(m)) for m in MEMBERS}
        for member in self.members.values():
            member.folder.mkdir()
            member.start()

    # --- what must hold

    def fail(self, text: str) -> None:
        self.failure = self.failure or text

    def applies(self, member: int, entry: Entry) -> None:
        known = self.entries.setdefault(entry.index, entry.data)
        if known != entry.data:
            self.fail("state machine safety: two members apply different entries at one index")

    def _check(self) -> bool:
        for member in self.members.values():
            engine = member.engine
            if engine is None:
                continue
            if engine.failed.done() and not engine.failed.cancelled():
                self.fail(f"a member stops: {engine.failed.exception()}".split(" at ")[0])
            if engine.is_leader and self.leaders.setdefault(engine.term, member.id) != member.id:
                self.fail("election safety: two members lead in one term")
        return bool(self.failure)

    # --- clients and messages

    def send(self, messages: list[Message]) -> None:
        for message in messages:
            self.network.send(message.sender, message.to, message, self._deliver)

    def _deliver(self, message: Message) -> None:
        engine = self.members[message.to].engine
        if engine is not None:
            self.loop.now(lambda: engine.step([message]))

    def _clients(self) -> None:
        self.clock.after(self.rng.uniform(2, 40), self._clients)
        up = [m.engine for m in self.members.values() if m.engine is not None]
        leading = [engine for engine in up if engine.is_leader]
        targets = leading if leading and self.rng.random() < 0.8 else up
        if not targets:
            return
        engine = self.rng.choice(targets)
        self.loop.now(lambda: self._write(engine) if self.rng.random() < 0.6 else self._read(engine))

    def _write(self, engine: RaftosEngine) -> None:
        self._counter += 1
        command = pack(b"%d" % self._counter)

        def done(result: object) -> None:
            if isinstance(result, int):
                self.acknowledged[result] = self.entries[result]
                self.acks += 1

        try:
            engine.submit(command, done)
        except StoreError:
            return

    def _read(self, engine: RaftosEngine) -> None:
        needed = max(self.acknowledged, default=0)

        def served(error: object) -> None:
            if error is None:
                self.reads += 1
                if engine._applied < needed:
                    self.fail("stale read: an acknowledged write is not seen")

        engine.read(served)

    # --- the nemesis

    def _nemesis(self) -> None:
        if not self.faulty:
            return
        members = list(self.members.values())
        leading = [m for m in members if m.engine is not None and m.engine.is_leader]
        a, b = self.rng.sample(MEMBERS, 2)
        acts: list[Callable[[], None]] = [
            lambda: self._crash(self.rng.choice(members)),
            lambda: self._crash(self.rng.choice(leading or members)),
            lambda: [self._crash(m) for m in members][0],  # noqa: RUF015 - all of them
            lambda: [self.network.cut_link(a, other) for other in MEMBERS if other != a][0],  # noqa: RUF015
            lambda: self.network.cut_link(a, b, both=False),
            self.network.heal,
            self.network.heal,
            self.network.disturb,
        ]
        self.rng.choice(acts)()
        self.clock.after(self.rng.uniform(20, 400), self._nemesis)

    def _crash(self, member: Member) -> None:
        if member.engine is None:
            return
        member.crash(power_cut=self.power_cuts)
        self.clock.after(self.rng.uniform(5, 500), lambda: member.start() if member.engine is None else None)

    def run(self) -> None:
        """Raises SimFailure."""
        self.clock.after(800, self._nemesis)
        self.clock.after(0, self._clients)
        self.clock.run_until(FAULTY_MS, self._check)
        self.faulty = False
        self.network.heal()
        for member in self.members.values():
            if member.engine is None:
                member.start()
        acks, reads, until = self.acks, self.reads, self.clock.events + HEAL_EVENTS

        def agreed() -> bool:
            applied = {m.engine._applied for m in self.members.values() if m.engine is not None}
            if self.clock.events > until:
                self.fail("no agreement after everything healed: its members drown in messages")
            return self._check() or (self.acks > acks + 5 and self.reads > reads + 3 and len(applied) == 1)

        if not self.failure and not self.clock.run_until(self.clock.now_ms + HEAL_MS, agreed):
            self.fail("no agreement after everything healed")
        if not self.failure and any(self.entries.get(i) != data for i, data in self.acknowledged.items()):
            self.fail("an acknowledged write is lost")
        if self.failure:
            raise SimFailure(self.failure)


def run(seed: int, *, power_cuts: bool) -> Group:
    """Raises SimFailure."""
    root = Path(tempfile.mkdtemp(prefix="sk8-safety-", dir=MEMORY))
    group = Group(seed, root, power_cuts=power_cuts)
    try:
        group.run()
        return group
    finally:
        for member in group.members.values():
            member.crash(power_cut=False)
        group.loop.end()
        shutil.rmtree(root)
