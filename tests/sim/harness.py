"""A whole group under a seeded nemesis: ``run(seed)`` raises SimFailure, with the seed, if anything is wrong.

Two thirds of the time faults rain; then everything heals and the group must make progress and agree.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from raft.core.errors import RaftError
from raft.core.types import ConfChange, ConfOp, ConfState, Entry, Role
from tests.sim.sim_checker import Checker
from tests.sim.sim_member import FAST_APPLY_MS, SimMember, Tuning, World
from tests.sim.sim_world import Clock, Network, SimFailure

FAULTY_MS = 6000.0
HEAL_MS = 20000.0


@dataclass(frozen=True)
class Profile:
    """What a seed concentrates on. Rare disasters need weather of their own."""

    name: str
    between_faults_ms: tuple[float, float]
    weights: dict[str, int]
    tuning: Tuning = field(default_factory=Tuning)
    slow: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    fsync_ms: tuple[float, float] = (0.1, 2.0)
    restart_ms: tuple[float, float] = (5, 800)
    client_ms: tuple[float, float] = (2, 40)
    young_death: float = 0.0
    """How likely a leader is struck right after its election."""


MIXED = Profile(
    "mixed",
    (20, 300),
    {
        "crash_one": 4, "crash_many": 1, "crash_leader": 2, "partition": 1, "one_way": 1, "isolate_leader": 1,
        "heal": 2, "disturb": 1, "slow_disk": 1, "transfer": 1, "change_membership": 3,
    },
)  # fmt: skip
CHURN = Profile(
    "leader churn: no pre-vote, leaders die young",
    (5, 80),
    {"crash_one": 2, "partition": 1, "one_way": 1, "heal": 8, "transfer": 1},
    Tuning(pre_vote=False, spread=6, max_size_per_msg=1, tick_ms=6.0),
    fsync_ms=(1, 30),
    restart_ms=(1, 60),
    client_ms=(1, 15),
    young_death=0.8,
)
POWER = Profile(
    "power cuts: slow disks, colliding elections, crashes while writing",
    (5, 80),
    {"crash_one": 4, "crash_leader": 3, "crash_many": 1, "partition": 2, "isolate_leader": 2, "heal": 5, "transfer": 1},
    Tuning(pre_vote=False, spread=2),
    fsync_ms=(1, 60),
    restart_ms=(1, 60),
    client_ms=(1, 15),
)
MEMBERS = Profile(
    "membership: constant change under partitions",
    (5, 100),
    {"change_membership": 12, "partition": 2, "isolate_leader": 2, "heal": 4, "crash_one": 1, "transfer": 1},
    Tuning(pre_vote=True, spread=4, slow_apply=True),
)
LAG = Profile(
    "lag: messages from long ago, deposed leaders that do not know it",
    (20, 200),
    {"isolate_leader": 4, "one_way": 3, "heal": 4, "transfer": 4, "crash_leader": 1},
    Tuning(pre_vote=True, spread=6),
    slow=0.3,
    duplicate=0.2,
    client_ms=(2, 20),
)
STOPS = Profile(
    "stops: syncs that fail, members that sleep, clocks that run apart",
    (5, 120),
    {
        "fail_sync": 4, "pause": 5, "pause_leader": 3, "skew": 3, "partition": 1, "heal": 3, "disturb": 2,
        "crash_one": 1, "change_membership": 2,
    },
    Tuning(pre_vote=True, spread=6),
    fsync_ms=(0.5, 20),
    client_ms=(1, 20),
)  # fmt: skip
PROFILES = (MIXED, CHURN, MEMBERS, LAG, POWER)


def kind_of(seed: int) -> tuple[int, Profile]:
    """How many members it has, and its weather. (Seeds named in docs/consensus.md keep theirs when a kind is added.)"""
    if seed % 8 == 7:
        return (3, 5, 7)[seed // 8 % 3], STOPS
    return 7 if seed % 8 == 6 else (3, 5)[seed % 2], PROFILES[seed // 2 % len(PROFILES)]


@dataclass(frozen=True)
class Outcome:
    seed: int
    profile: str
    events: int
    acks: int
    reads: int
    terms: int
    crashes: int
    conf_changes: int
    dropped: int


@dataclass
class Total:
    """Of all seeds of a test run; the summary shows it."""

    seeds: int = 0
    events: int = 0
    cpu_s: float = 0.0

    def add(self, outcome: Outcome, cpu_s: float) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.cpu_s += cpu_s

    def __str__(self) -> str:
        millions = self.events / max(self.cpu_s, 1e-9) * 3600 / 1e6
        return f"{self.seeds} seeds, {self.events} events, {self.cpu_s:.0f} CPU seconds: {millions:.0f} million an hour"


TOTAL = Total()


class Simulation:
    def __init__(self, seed: int, size: int, profile: Profile) -> None:
        self.seed = seed
        self.profile = profile
        self.rng = random.Random(seed)
        clock = Clock()
        self.world = World(clock, Network(clock, self.rng), self.rng, Checker(), {}, profile.tuning)
        self._weather()
        self.world.checker.on_leader = self._leader_elected
        self.founders = ConfState(tuple(range(1, size + 1)))
        self.faulty = True
        self.crashes = 0
        self.conf_changes = 0
        self._counter = 0
        for member in self.founders.voters:
            self._add(member, self.founders)
        self._nemeses: list[Callable[[], None]] = [
            getattr(self, f"_{name}") for name, weight in profile.weights.items() for _ in range(weight)
        ]

    def _leader_elected(self, member: int) -> None:
        """Strike a new leader: before its first message leaves, or soon after (paper, figure 8)."""
        if not self.faulty or self.rng.random() >= self.profile.young_death:
            return
        if self.rng.random() < 0.4:
            self._isolate(self.world.members[member], both=True)
            return
        delay_ms = self.rng.uniform(0, self.rng.choice((10, 30, 80)))
        if self.rng.random() < 0.5:
            self.world.clock.after(delay_ms, lambda: self._crash(self.world.members[member]))
        else:
            self.world.clock.after(delay_ms, lambda: self._isolate(self.world.members[member], both=True))

    def _weather(self) -> None:
        self.world.network.slow = self.profile.slow
        self.world.network.duplicate = self.profile.duplicate
        self.world.network.drop = self.profile.drop

    def _add(self, member: int, founders: ConfState | None) -> None:
        self.world.members[member] = SimMember(self.world, member, founders)
        self.world.members[member].fsync_ms = self.profile.fsync_ms

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
        self.world.clock.after(self.rng.uniform(*self.profile.client_ms), self._clients)
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
            target.read(b"read %d" % self._counter)

    def _reply(self, entry: Entry | None) -> None:
        if entry is not None:
            self.world.checker.acknowledge(entry)

    # --- the nemesis

    def _nemesis(self) -> None:
        if self.faulty:
            self.rng.choice(self._nemeses)()
            self.world.clock.after(self.rng.uniform(*self.profile.between_faults_ms), self._nemesis)

    def _crash(self, member: SimMember) -> None:
        if not member.up or not self.faulty:
            return
        self.crashes += 1
        member.crash()
        life = member.life
        self.world.clock.after(self.rng.uniform(*self.profile.restart_ms), lambda: self._restart(member, life))

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
        for leader in self._leaders():
            self._isolate(leader, both=self.rng.random() < 0.5)

    def _isolate(self, member: SimMember, *, both: bool) -> None:
        for other in self.world.members:
            if other != member.id and self.faulty:
                self.world.network.cut_link(other, member.id, both=both)

    def _heal(self) -> None:
        self.world.network.heal()
        self._weather()

    def _disturb(self) -> None:
        self.world.network.disturb()

    def _slow_disk(self) -> None:
        member = self.rng.choice(list(self.world.members.values()))
        member.fsync_ms = self.rng.choice(((0.1, 2.0), (0.1, 50.0), (50.0, 300.0)))

    def _fail_sync(self) -> None:
        member = self.rng.choice(list(self.world.members.values()))
        if member.up:
            member.sync_fails = lambda: self._crash(member)

    def _pause(self) -> None:
        self.rng.choice(list(self.world.members.values())).pause(self.rng.uniform(20, 1500))

    def _pause_leader(self) -> None:
        for leader in self._leaders():
            leader.pause(self.rng.uniform(20, 1500))

    def _skew(self) -> None:
        """Raft's safety must not know what time it is."""
        self.rng.choice(list(self.world.members.values())).skew(self.rng.choice((0.2, 0.5, 1.0, 2.0, 5.0)))

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
        if len(leader.conf.voters) < 2:
            return
        change = self._some_change(leader.conf)
        try:
            leader.node.propose_conf_change(change)
        except RaftError:
            return
        self.conf_changes += 1
        for op, member in change.changes:
            if op != ConfOp.REMOVE and member not in self.world.members:
                self._add(member, None)
        leader.pump()

    def _some_change(self, conf: ConfState) -> ConfChange:
        new = max(self.world.members) + 1
        voters = list(conf.voters)
        old, other = self.rng.sample(voters, 2)
        options = [
            ConfChange(((ConfOp.ADD_VOTER, new), (ConfOp.REMOVE, old))),
            ConfChange(((ConfOp.ADD_VOTER, new), (ConfOp.ADD_VOTER, new + 1), (ConfOp.REMOVE, old))),
            ConfChange(((ConfOp.ADD_VOTER, new), (ConfOp.ADD_LEARNER, old)), joint=True),
        ]
        options += [ConfChange(((ConfOp.ADD_VOTER, learner),)) for learner in conf.learners]
        if len(voters) > 3:
            options += [ConfChange(((ConfOp.REMOVE, old),)), ConfChange(((ConfOp.ADD_LEARNER, old),))] * 2
            options.append(ConfChange(((ConfOp.REMOVE, old), (ConfOp.REMOVE, other))))
        if len(conf.learners) > 1:
            options += [ConfChange(((ConfOp.REMOVE, learner),)) for learner in conf.learners]
        if len(conf.members()) < 7:
            options += [ConfChange(((ConfOp.ADD_LEARNER, new),)), ConfChange(((ConfOp.ADD_VOTER, new),))]
            options.append(ConfChange(((ConfOp.ADD_LEARNER, new), (ConfOp.ADD_LEARNER, new + 1))))
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
            self.profile.name.partition(":")[0],
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
            member.apply_ms = FAST_APPLY_MS
            member.sync_fails = None
            member.paused_until_ms = 0.0
            member.skew(1.0)
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


def run(seed: int) -> Outcome:
    """Raises SimFailure with the seed and the virtual time in its message."""
    simulation = Simulation(seed, *kind_of(seed))
    try:
        return simulation.run()
    except Exception as e:
        at = simulation.world.clock.now_ms
        where = "" if isinstance(e, SimFailure) else "\n" + traceback.format_exc()
        raise SimFailure(
            f"seed {seed} ({simulation.profile.name}) at {at:.1f} ms: {type(e).__name__}: {e}{where}"
        ) from e
