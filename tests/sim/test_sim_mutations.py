"""The simulation notices a wrong core: each broken rule fails within some seeds (the others: docs/consensus.md)."""

from __future__ import annotations

import pytest

from tests.sim import harness, sim_mutations
from tests.sim.sim_world import SimFailure

SEEDS = 150


@pytest.mark.parametrize(
    "name",
    [
        "forgets_vote_when_following",
        "forgets_vote_at_restart",
        "acks_before_fsync",
        "leader_counts_itself_before_fsync",
        "votes_for_shorter_logs",
        "reads_before_committing_in_its_term",
        "truncates_at_every_append",
        "skips_the_log_check",
        "claims_survive_truncation",
        "replay_keeps_overwritten_entries",
        "heartbeats_carry_the_full_commit",
        "applies_twice",
        "goes_on_after_a_failed_sync",
    ],
)
def test_a_broken_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sim_mutations.MUTATIONS[name](monkeypatch)
    with pytest.raises(SimFailure):
        for seed in range(SEEDS):
            harness.run(seed)
