"""The safety suite on both engines, side by side: ``python tests/safety/safety_table.py [SEEDS]``.

It prints what docs/consensus.md shows, and how each rule is broken.
A rule is kept or broken by itself; a group under faults keeps everything for all seeds, or does not.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tests.safety import raftos_group
from tests.safety.native_subject import NativeSubject
from tests.safety.raftos_subject import RaftosSubject
from tests.safety.rules import RULES, Check
from tests.safety.safety_subject import Refused
from tests.sim import harness
from tests.sim.sim_world import SimFailure

SUBJECTS: tuple[Callable[[], NativeSubject | RaftosSubject], ...] = (NativeSubject, RaftosSubject)
SEEDS = 30


class Row(NamedTuple):
    text: str
    native: str
    """Empty: kept. Else how it is broken."""
    raftos: str


def broken(make: Callable[[], NativeSubject | RaftosSubject], check: Check) -> str:
    """How this engine breaks the rule; empty if it keeps it."""
    subject = make()
    try:
        check(subject)
    except (AssertionError, Refused) as error:
        return (str(error).splitlines() or [""])[0] or "it does not"
    finally:
        subject.close()
    return ""


def _native_seed(seed: int) -> None:
    harness.run(seed)


WEATHERS: tuple[tuple[str, Callable[[int], object], Callable[[int], object]], ...] = (
    (
        "a group under a bad network and killed processes",
        _native_seed,
        lambda seed: raftos_group.run(seed, power_cuts=False),
    ),
    ("the same with power cuts", _native_seed, lambda seed: raftos_group.run(seed, power_cuts=True)),
)


def under_faults(run: Callable[[int], object], seeds: int) -> str:
    failures: Counter[str] = Counter()
    for seed in range(seeds):
        try:
            run(seed)
        except SimFailure as error:
            failures[str(error).split(": ")[0].split(" (")[0]] += 1
    if not failures:
        return ""
    return f"{failures.total()} of {seeds} seeds: " + ", ".join(f"{text} ({n})" for text, n in failures.most_common())


def rows(seeds: int = SEEDS) -> list[Row]:
    found = [Row(rule.text, *(broken(make, rule.check) for make in SUBJECTS)) for rule in RULES]
    return found + [Row(text, under_faults(a, seeds), under_faults(b, seeds)) for text, a, b in WEATHERS]


def markdown(found: list[Row]) -> str:
    """What the documentation shows: without the reasons, which are in the run's own output."""
    lines = ["| rule | native | raftos |", "|---|---|---|"]
    lines += [f"| {r.text} | {'no' if r.native else 'yes'} | {'**no**' if r.raftos else 'yes'} |" for r in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    found = rows(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
    print(markdown(found))
    for row in found:
        for engine, why in (("native", row.native), ("raftos", row.raftos)):
            if why:
                print(f"{engine}: {row.text}: {why}")


if __name__ == "__main__":
    main()
