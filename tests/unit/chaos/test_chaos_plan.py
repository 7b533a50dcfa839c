"""What a chaos run does is decided by its seed and the machines there are."""

from __future__ import annotations

from itertools import islice

import pytest

from cluster.chaos.plan import ACTORS, KINDS, ROLLING_REBOOT, SOUP, Place, UnknownScenario, excluded, faults, scenarios

THREE = Place(("m1", "m2", "m3"), ("m1", "m2", "m3"), {})


def test_the_same_seed_draws_the_same_faults_and_another_seed_others() -> None:
    first, again, other = (list(islice(faults(SOUP, seed, THREE), 200)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_soup_has_every_kind_before_any_comes_again() -> None:
    drawn = [fault.kind for fault in islice(faults(SOUP, 5, THREE), 10 * len(KINDS))]
    for start in range(0, len(drawn), len(KINDS)):
        assert set(drawn[start : start + len(KINDS)]) == set(KINDS)


def test_durations_and_targets_are_what_the_kind_allows() -> None:
    place = Place(("m1", "m2", "m3", "m4"), ("m1", "m2", "m3"), {})
    for fault in islice(faults(SOUP, 9, place), 300):
        kind = KINDS[fault.kind]
        low, high = kind.lasts_s
        assert low <= fault.lasts_s <= high
        assert set(fault.targets) <= set(place.control_planes if kind.control_planes else place.machines)
        assert len(set(fault.targets)) == (2 if fault.kind == "partition-bridge" else 1)


@pytest.mark.parametrize("name", list(scenarios()))
def test_every_scenario_can_be_drawn(name: str) -> None:
    assert next(iter(faults(name, 1, THREE))).kind in KINDS


def test_groups_go_through_all_of_theirs() -> None:
    assert [f.kind for f in faults("kill-actor", 1, THREE)] == [f"kill-{actor}" for actor in ACTORS]
    assert [f.targets for f in faults(ROLLING_REBOOT, 1, THREE)] == [("m1",), ("m2",), ("m3",)]


def test_what_cannot_be_tried_is_left_out_with_the_reason() -> None:
    two = Place(("m1", "m2"), ("m1",), {"slow-link": "no netem in this kernel"})
    out = excluded(tuple(KINDS), two, ("clock-jump",))
    assert out["slow-link"] == "no netem in this kernel"
    assert out["kill-leader"] == "needs 3 control planes, there are 1"
    assert out["clock-jump"] == "left out by --without"
    assert not {fault.kind for fault in islice(faults(SOUP, 1, two, ("clock-jump",)), 200)} & set(out)
    with pytest.raises(ValueError, match="needs 3 control planes"):
        faults("kill-leader", 1, two)


def test_an_unknown_scenario_names_those_there_are() -> None:
    with pytest.raises(UnknownScenario, match="there are: kill-machine"):
        faults("burn", 1, THREE)
