"""The whole cluster under a seeded nemesis and users who change their minds.

One seed again: SK8_SIM_SEED=17; more of them: SK8_SIM_SEEDS=500, or `make sim SEEDS=500`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from cluster.controllers import disruption_core, node_lifecycle_core
from cluster.controllers.node_lifecycle_core import Verdict
from tests.sim import cluster_harness

SEEDS = int(os.environ.get("SK8_SIM_SEEDS", "15"))
ONE = os.environ.get("SK8_SIM_SEED")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [int(ONE)] if ONE else range(SEEDS))
def test_at_rest_desired_equals_actual(seed: int) -> None:
    print(cluster_harness.run(seed))


def test_a_run_repeats_itself() -> None:
    assert cluster_harness.run(3) == cluster_harness.run(3)


def test_the_nemesis_does_its_work() -> None:
    """Guards against a harness that has quietly stopped testing anything."""
    outcome = cluster_harness.run(2)
    assert outcome.faults > 10 and outcome.acts > 20 and outcome.evictions > 0 and outcome.revisions > 500


def _silence_is_taken_for_proof(patch: pytest.MonkeyPatch) -> None:
    right = node_lifecycle_core.judge

    def judge(*args: Any) -> Any:
        found = right(*args)
        return replace(found, verdict=Verdict.GONE) if found.verdict is Verdict.UNREACHABLE else found

    patch.setattr(node_lifecycle_core, "judge", judge)


def _budgets_allow_all(patch: pytest.MonkeyPatch) -> None:
    right = disruption_core.decide

    def decide(*args: Any) -> Any:
        found = right(*args)
        found.status["disruptionsAllowed"] = found.status["currentHealthy"]
        return found

    patch.setattr(disruption_core, "decide", decide)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plant", "found", "first"),
    [
        (_silence_is_taken_for_proof, "runs on", 0),
        (_budgets_allow_all, "granted", 6),
    ],
)
def test_planted_bugs_are_found(plant: Any, found: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`first`: a seed that likely finds it soon."""
    plant(monkeypatch)
    for seed in range(first, first + 20):
        try:
            cluster_harness.run(seed)
        except cluster_harness.ClusterFailure as failure:
            assert found in str(failure)
            return
    pytest.fail("not found in 20 seeds")
