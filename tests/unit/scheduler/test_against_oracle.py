"""Columns against the plain oracle, and batches against one by one, on generated clusters. A failing seed replays."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.decide import Pending, Placement, Unschedulable, place
from cluster.scheduler.diagnosis import fit_error
from cluster.scheduler.shape import canonical, shape_of
from tests.unit.scheduler import generated
from tests.unit.scheduler.oracle import Obj, Oracle

SEEDS = st.integers(0, 2**48)


def columns_of(nodes: list[Obj]) -> NodeColumns:
    columns = NodeColumns(2)
    for name, labels in generated.NAMESPACES.items():
        columns.relations.set_namespace(columns, name, labels)
    for node in nodes:
        columns.set_volume_limits(node["metadata"]["name"], node["volumeLimits"])
        columns.set_node(node)
    return columns


def pending(pod: Obj) -> Pending:
    meta = pod["metadata"]
    shape = shape_of(pod, canonical(pod.get("defaultSpread")))
    return Pending(meta["uid"], (meta["namespace"], meta["name"]), shape, volumes=tuple(pod["attaches"]))


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_every_choice_is_one_the_oracle_scores_highest(seed: int) -> None:
    check_choices(seed)


def check_choices(seed: int) -> int:
    """Returns how many decisions were compared."""
    rng = random.Random(seed)
    nodes = generated.nodes(rng)
    columns, oracle = columns_of(nodes), Oracle(nodes, generated.NAMESPACES)
    for pod in generated.pods(rng, 10):
        scores = oracle.scores(pod)
        (outcome,) = place(columns, [pending(pod)])
        if isinstance(outcome, Unschedulable):
            assert not scores, pod
            reasons = Counter(reason for name in oracle.nodes for reason in oracle.refuse(pod, name))
            assert outcome.message == fit_error(columns, reasons)
            continue
        best = max(scores.values(), default=None)
        assert scores.get(outcome.node) == best, (pod, outcome.node, scores)
        oracle.placed.append((pod, outcome.node))
        if rng.random() < 0.2:
            gone, _ = oracle.placed.pop(rng.randrange(len(oracle.placed)))
            assert columns.remove_pod(gone["metadata"]["uid"])
    return 10


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.booleans())
def test_a_batch_lands_as_one_by_one(seed: int, rules: bool) -> None:
    check_batch(seed, rules=rules)


def check_batch(seed: int, *, rules: bool) -> int:
    """Returns how many pods were compared."""
    rng = random.Random(seed)
    nodes = generated.nodes(rng, 12)
    pods = [pending(p) for p in generated.pods(rng, 4, run=30, rules=rules)]
    together, separate = columns_of(nodes), columns_of(nodes)
    batch = place(together, pods)
    alone = [place(separate, [one])[0] for one in pods]
    assert [_text(o) for o in batch] == [_text(o) for o in alone]
    assert (together.requested == separate.requested).all() and (together.free == separate.free).all()
    return len(pods)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_what_came_and_went_leaves_nothing(seed: int) -> None:
    """Counts kept in place equal counts made afresh, also after nodes changed their labels or left."""
    rng = random.Random(seed)
    nodes = generated.nodes(rng)
    columns, pods = columns_of(nodes), generated.pods(rng, 8, run=3)
    place(columns, [pending(p) for p in pods])
    for pod in rng.sample(pods, len(pods) // 2):
        columns.remove_pod(pod["metadata"]["uid"])
    changed = generated.nodes(random.Random(seed + 1), len(nodes))[: len(nodes)]
    for node in changed:
        columns.set_node(node)
        columns.set_volume_limits(node["metadata"]["name"], node["volumeLimits"])
    if len(nodes) > 2:
        columns.remove_node(nodes[0]["metadata"]["name"])
    fresh = columns_of([])
    current = {n["metadata"]["name"]: n for n in [*nodes, *changed]}
    for name in columns.names:
        if name:
            fresh.set_node(current[name])
            fresh.set_volume_limits(name, current[name]["volumeLimits"])
    for placed in columns.placed.values():
        fresh.place_pod(placed.uid, columns.names[placed.row], placed.shape, volumes=placed.volumes)
    probe = [pending(p) for p in generated.pods(random.Random(seed + 2), 6)]
    for one in probe:
        one = Pending(f"probe-{one.uid}", one.key, one.shape, volumes=one.volumes)
        ours, theirs = place(columns, [one])[0], place(fresh, [one])[0]
        assert isinstance(ours, Placement) == isinstance(theirs, Placement)
        if isinstance(ours, Unschedulable):
            assert _text(ours) == _text(theirs)
        columns.remove_pod(one.uid)
        fresh.remove_pod(one.uid)


def _text(outcome: Placement | Unschedulable) -> str:
    return outcome.node if isinstance(outcome, Placement) else outcome.message
