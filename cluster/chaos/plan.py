"""Which faults, where, for how long: everything of a chaos run that is decided before it starts. Pure.

A scenario is a sequence of faults, one at a time: the next begins when the cluster is whole again, because two faults
at once may take a majority away, and then nothing is promised. The same seed and machines give the same sequence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CONTROL_ACTORS = ("state", "apiserver", "scheduler", "controllers", "supervisor")
ACTORS = (*CONTROL_ACTORS, "kubelet", "proxy")


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to break something. `lasts_s` bounds how long it stays broken; (0, 0) is over at once."""

    name: str
    text: str
    lasts_s: tuple[float, float] = (0.0, 0.0)
    control_planes: bool = False
    """Only machines that hold a control plane can be hit."""
    least_machines: int = 1


def _actor_kinds() -> Iterator[Kind]:
    for actor in ACTORS:
        control = actor in CONTROL_ACTORS
        yield Kind(f"kill-{actor}", f"SIGKILL of the {actor} actor of one machine", control_planes=control)
    for actor in ACTORS:
        control = actor in CONTROL_ACTORS
        yield Kind(f"pause-{actor}", f"SIGSTOP of the {actor} actor, then SIGCONT", (2, 6), control_planes=control)


_KINDS = (
    Kind("kill-machine", "power failure of one machine, then it boots again", (6, 12), least_machines=2),
    Kind("wipe-machine", "power failure, and the disk is empty when it boots again", (6, 12), least_machines=3),
    Kind("reboot-machine", "one machine is shut down in good order and boots again", (1, 3), least_machines=2),
    Kind("kill-leader", "power failure of the machine that holds the store's leader", (6, 12), True, 3),
    Kind("kill-head", "power failure of the machine that holds Ray's head", (6, 12), True, 3),
    Kind("kill-raylet", "SIGKILL of one machine's raylet: its actors go with it"),
    *_actor_kinds(),
    Kind("partition-full", "one machine's cable is cut", (3, 10), least_machines=2),
    Kind("partition-one-way", "one machine hears the others, and they do not hear it", (3, 10), least_machines=2),
    Kind("partition-minority", "one control plane and the others do not hear each other", (3, 10), True, 3),
    Kind("partition-bridge", "two control planes do not hear each other; a third hears both", (3, 10), True, 3),
    Kind("slow-link", "50 ms of delay on one machine's cable", (5, 10), least_machines=2),
    Kind("lossy-link", "5 % of one machine's packets are lost", (5, 10), least_machines=2),
    Kind("disk-full", "no write to one member's log succeeds (injected at its write)", (4, 8), True, 3),
    Kind("slow-fsync", "every sync of one member's log takes 50 ms longer (injected)", (5, 10), True),
    Kind("engine-restart", "the container engine of the box stops and starts again"),
    Kind("clock-jump", "the box's clock goes ten minutes ahead, then back", (3, 6)),
)
KINDS = {kind.name: kind for kind in _KINDS}
NETEM_KINDS = frozenset({"slow-link", "lossy-link"})

_GROUPS = {
    "kill-actor": tuple(f"kill-{actor}" for actor in ACTORS),
    "pause": tuple(f"pause-{actor}" for actor in ACTORS),
    "partition": ("partition-full", "partition-one-way", "partition-minority", "partition-bridge"),
}
ROLLING_REBOOT, SOUP = "rolling-reboot", "soup"


@dataclass(frozen=True, slots=True)
class Fault:
    """`targets` are machines: the one that is hit first; `partition-bridge` has two."""

    kind: str
    targets: tuple[str, ...]
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.kind} {'+'.join(self.targets)}"


@dataclass(frozen=True, slots=True)
class Place:
    """The machines there are, by name, in order. `refused` says by kind why it cannot be tried here."""

    machines: tuple[str, ...]
    control_planes: tuple[str, ...]
    refused: dict[str, str]


class UnknownScenario(ValueError):
    """No scenario and no kind of fault has that name."""


def scenarios() -> dict[str, str]:
    """Name to what it does: every kind of fault is a scenario of its own, besides groups of them."""
    named = {kind.name: kind.text for kind in _KINDS}
    named |= {name: f"one after another: {', '.join(kinds)}" for name, kinds in _GROUPS.items()}
    named[ROLLING_REBOOT] = "every machine is rebooted, one after another"
    named[SOUP] = "faults of every kind in a random order, until their number or the time is reached"
    return named


def kinds_of(scenario: str) -> tuple[str, ...]:
    """Raises UnknownScenario."""
    if scenario in KINDS:
        return (scenario,)
    if scenario == ROLLING_REBOOT:
        return ("reboot-machine",)
    if scenario == SOUP:
        return tuple(KINDS)
    if scenario in _GROUPS:
        return _GROUPS[scenario]
    raise UnknownScenario(f"there is no scenario {scenario!r}; there are: {', '.join(scenarios())}")


def excluded(kinds: Sequence[str], place: Place, without: Sequence[str]) -> dict[str, str]:
    """Why some of `kinds` are left out here."""
    out: dict[str, str] = {}
    for name in kinds:
        kind = KINDS[name]
        count = len(place.control_planes) if kind.control_planes else len(place.machines)
        if name in without:
            out[name] = "left out by --without"
        elif name in place.refused:
            out[name] = place.refused[name]
        elif count < kind.least_machines:
            what = "control planes" if kind.control_planes else "machines"
            out[name] = f"needs {kind.least_machines} {what}, there are {count}"
    return out


def faults(scenario: str, seed: int, place: Place, without: Sequence[str] = ()) -> Iterator[Fault]:
    """The scenario's faults; `soup` does not end. No kind comes twice before each came once.

    Raises UnknownScenario, or ValueError when nothing of the scenario can be tried here.
    """
    rng = random.Random(seed)
    kinds = kinds_of(scenario)
    left_out = excluded(kinds, place, without)
    possible = [name for name in kinds if name not in left_out]
    if not possible:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    if scenario == ROLLING_REBOOT:
        return iter([_fault(rng, "reboot-machine", (machine,)) for machine in place.machines])
    if scenario == SOUP:
        return _soup(rng, possible, place)
    return iter([_drawn(rng, name, place) for name in possible])


def _soup(rng: random.Random, kinds: list[str], place: Place) -> Iterator[Fault]:
    while True:
        for name in rng.sample(kinds, len(kinds)):
            yield _drawn(rng, name, place)


def _drawn(rng: random.Random, name: str, place: Place) -> Fault:
    machines = place.control_planes if KINDS[name].control_planes else place.machines
    return _fault(rng, name, tuple(rng.sample(machines, 2 if name == "partition-bridge" else 1)))


def _fault(rng: random.Random, name: str, targets: tuple[str, ...]) -> Fault:
    return Fault(name, targets, round(rng.uniform(*KINDS[name].lasts_s), 1))
