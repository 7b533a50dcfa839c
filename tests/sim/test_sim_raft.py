"""Raft under a seeded nemesis. One seed again: SK8_SIM_SEED=17; more of them: SK8_SIM_SEEDS=5000, or `make sim`."""

from __future__ import annotations

import os
import time

import pytest

from tests.sim import harness

SEEDS = int(os.environ.get("SK8_SIM_SEEDS", "150"))
ONE = os.environ.get("SK8_SIM_SEED")
BATCH = 10


@pytest.mark.timeout(600)  # two seconds of nothing but computing, on a box of its own
@pytest.mark.parametrize("first", [int(ONE)] if ONE else range(0, SEEDS, BATCH))
def test_group_survives(first: int) -> None:
    for seed in range(first, first + 1 if ONE else min(first + BATCH, SEEDS)):
        began = time.process_time()
        outcome = harness.run(seed)
        harness.TOTAL.add(outcome, time.process_time() - began)
        print(outcome)


def test_a_run_repeats_itself() -> None:
    assert harness.run(3) == harness.run(3)


def test_the_nemesis_does_its_work() -> None:
    """Guards against a harness that has quietly stopped testing anything."""
    outcomes = [harness.run(seed) for seed in range(1000, 1006)]
    assert all(o.acks > 20 and o.reads > 10 for o in outcomes)
    assert sum(o.crashes for o in outcomes) > 20
    assert sum(o.terms for o in outcomes) > 20
    assert sum(o.conf_changes for o in outcomes) > 5
    assert sum(o.dropped for o in outcomes) > 500
