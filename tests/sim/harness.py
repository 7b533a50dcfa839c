"""A whole group under a seeded nemesis: ``run(seed)`` raises SimFailure, with the seed, if anything is wrong.

Two thirds of the time faults rain; then everything heals and the group must make progress and agree.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass

from sim_checker import Checker
from sim_member import SimMember, World
from sim_world import Clock, Network, SimFailure

from raft.core.errors import RaftError
from raft.core.types import ConfChange, ConfOp, ConfState, Entry, Role

FAULTY_MS = 5000.0
HEAL_MS = 15000.0


@dataclass(frozen=True)
class Outcome:
    seed: int
    events: int
    acks: int
    reads: int
    terms: int
    crashes: int
    conf_changes: int
    dropped: int


class Simulation:
    def __init__(self, seed: int, size: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        clock = Clock()
        self.world = World(clock, Network(clock, self.rng), self.rng, Checker(), {})
        self.founders = ConfState(tuple(range(1, size + 1)))
        self.faulty = True
        self.crashes = 0
        self.conf_changes = 0
        self._counter = 0
        for member in self.founders.voters:
            self.world.members[member] = SimMember(self.world, member, self.founders)
        self._nemeses = (
            [self._crash_one] * 4
            + [self._crash_many, self._crash_leader, self._crash_leader, self._partition, self._one_way]
            + [self._isolate_leader, self._heal, self._heal, self._disturb, self._slow_disk, self._transfer]
            + [self._change_membership] * 3
        )

    # --- who is there

    def _up(self) -> list[SimMember]:
        return [m for m in self.world.members.values() if m.up]

    def _leaders(self) -> list[SimMember]:
        return [m for m in self._up() if m.node.is_leader]

    def membership(self) -> ConfState:
        """Of the member that has applied the most."""
        return max(self.world.members.values(), key=lambda m: m.applied).conf

    # --- clients

    def _clients(self) -> None:
        self.world.clock.after(self.rng.uniform(2, 40), self._clients)
        targets = self._leaders() if self.rng.random() < 0.8 else self._up()
        if not targets:
            return
        target = self.rng.choice(targets)
        if self.rng.random() < 0.6:
            self._counter += 1
            payloads = [b"%d.%d" % (self._counter, i) for i in range(self.rng.choice((1, 1, 2, 5)))]
            target.propose(payloads, self._reply)
        else:
            self._counter += 1
            self.rng.choice(self._up()).read(b"read %d" % self._counter)

    def _reply(self, entry: Entry | None) -> None:
        if entry is not None:
            self.world.checker.acknowledge(entry)

    # --- the nemesis

    def _nemesis(self) -> None:
        if self.faulty:
            self.rng.choice(self._nemeses)()
            self.world.clock.after(self.rng.uniform(20, 300), self._nemesis)

    def _crash(self, member: SimMember) -> None:
        if not member.up:
            return
        self.crashes += 1
        member.crash()
        life = member.life
        self.world.clock.after(self.rng.uniform(5, 800), lambda: self._restart(member, life))

    def _restart(self, member: SimMember, life: int) -> None:
        if not member.up and member.life == life:
            member.start()

    def _crash_one(self) -> None:
        self._crash(self.rng.choice(list(self.world.members.values())))

    def _crash_leader(self) -> None:
        for member in self._leaders():
            self._crash(member)

    def _crash_many(self) -> None:
        members = list(self.world.members.values())
        for member in self.rng.sample(members, self.rng.randint(2, len(members))):
            self._crash(member)

    def _partition(self) -> None:
        ids = list(self.world.members)
        side = set(self.rng.sample(ids, self.rng.randint(1, len(ids) - 1)))
        for a in side:
            for b in ids:
                if b not in side:
                    self.world.network.cut_link(a, b)

    def _one_way(self) -> None:
        a, b = self.rng.sample(list(self.world.members), 2)
        self.world.network.cut_link(a, b, both=False)

    def _isolate_leader(self) -> None:
        both = self.rng.random() < 0.5
        for leader in self._leaders():
            for other in self.world.members:
                if other != leader.id:
                    self.world.network.cut_link(other, leader.id, both=both)

    def _heal(self) -> None:
        self.world.network.heal()

    def _disturb(self) -> None:
        self.world.network.disturb()

    def _slow_disk(self) -> None:
        member = self.rng.choice(list(self.world.members.values()))
        member.fsync_ms = self.rng.choice(((0.1, 2.0), (0.1, 50.0), (50.0, 300.0)))

    def _transfer(self) -> None:
        for leader in self._leaders():
            try:
                leader.node.transfer_leader(self.rng.choice(list(self.world.members)))
            except RaftError:
                continue
            leader.pump()

    def _change_membership(self) -> None:
        leaders = self._leaders()
        if not leaders:
            return
        leader = self.rng.choice(leaders)
        change = self._some_change(leader.conf)
        try:
            leader.node.propose_conf_change(change)
        except RaftError:
            return
        self.conf_changes += 1
        for op, member in change.changes:
            if op != ConfOp.REMOVE and member not in self.world.members:
                self.world.members[member] = SimMember(self.world, member, None)
        leader.pump()

    def _some_change(self, conf: ConfState) -> ConfChange:
        new = max(self.world.members) + 1
        old = self.rng.choice(conf.voters)
        options = [
            ConfChange(((ConfOp.ADD_VOTER, old), (ConfOp.ADD_LEARNER, old))) if len(conf.voters) > 3 else ConfChange(),
            ConfChange(((ConfOp.ADD_VOTER, new), (ConfOp.REMOVE, old))),
        ]
        if conf.learners:
            options += [ConfChange(((ConfOp.ADD_VOTER, conf.learners[0]),))] * 2
        if len(conf.voters) > 3:
            options += [ConfChange(((ConfOp.REMOVE, old),))] * 2
        if len(conf.members()) < 6:
            options.append(ConfChange(((ConfOp.ADD_LEARNER, new),)))
            options.append(ConfChange(((ConfOp.ADD_VOTER, new),)))
            options.append(ConfChange(((ConfOp.ADD_VOTER, new), (ConfOp.ADD_VOTER, new + 1), (ConfOp.REMOVE, old))))
        return self.rng.choice(options)

    # --- the run

    def run(self) -> Outcome:
        clock = self.world.clock
        clock.after(self.rng.uniform(100, 600), self._nemesis)
        clock.after(0, self._clients)
        clock.run_until(FAULTY_MS)
        self._heal_everything()
        self._converge(clock.now_ms + HEAL_MS)
        checker = self.world.checker
        return Outcome(
            self.seed,
            clock.events,
            checker.acks,
            checker.reads,
            len(checker.leaders),
            self.crashes,
            self.conf_changes,
            self.world.network.dropped,
        )

    def _heal_everything(self) -> None:
        self.faulty = False
        self.world.network.heal()
        for member in self.world.members.values():
            member.fsync_ms = (0.1, 2.0)
            if not member.up:
                member.start()

    def _converge(self, deadline_ms: float) -> None:
        """All of the final membership must acknowledge, read and apply something new."""
        checker = self.world.checker
        acks, reads = checker.acks, checker.reads

        def agreed() -> bool:
            conf = self.membership()
            members = [self.world.members[i] for i in conf.members()]
            target = checker.last_committed
            return (
                checker.acks >= acks + 5
                and checker.reads >= reads + 3
                and not conf.voters_outgoing
                and all(m.applied >= target - 3 for m in members)
                and sum(m.node._r.role is Role.LEADER and m.id in conf.voters for m in members) == 1
            )

        if not self.world.clock.run_until(deadline_ms, agreed):
            raise SimFailure(f"no agreement after everything healed: {self.describe()}")
        applied = max(m.applied for m in self.world.members.values())
        checker.all_acknowledged(applied)

    def describe(self) -> str:
        return "; ".join(
            f"{m.id}: {'up' if m.up else 'down'} {m.node.status().role.name} term {m.node.term} "
            f"log {m.node.status().first_index}..{m.node.status().last_index} commit {m.node.status().commit} "
            f"applied {m.applied} {tuple(m.conf)}"
            for m in self.world.members.values()
        )


def run(seed: int, size: int = 0) -> Outcome:
    """Raises SimFailure with the seed and the virtual time in its message."""
    simulation = Simulation(seed, size or (3, 5)[seed % 2])
    try:
        return simulation.run()
    except Exception as e:
        at = simulation.world.clock.now_ms
        where = "" if isinstance(e, SimFailure) else "\n" + traceback.format_exc()
        raise SimFailure(f"seed {seed} at {at:.1f} ms: {type(e).__name__}: {e}{where}") from e
