"""Preemption against a plain reading of kube-scheduler's rules, one node and one victim at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler.config import DEFAULT
from cluster.scheduler.decide import Pending, diagnose, feasible
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.preempt import Budget, Candidate, preempt
from cluster.scheduler.shape import shape_of
from tests.unit.scheduler import generated
from tests.unit.scheduler.oracle import Obj, Oracle
from tests.unit.scheduler.test_against_oracle import columns_of

IMPORTANT = 100


@dataclass
class Rules:
    """DefaultPreemption, as documented."""

    oracle: Oracle
    priority: dict[str, int]
    started: dict[str, float]
    budgets: list[Budget]

    def _order(self, pod: Obj) -> tuple[int, float]:
        uid = pod["metadata"]["uid"]
        return -self.priority[uid], self.started[uid]

    def _fits_without(self, pod: Obj, node: str, away: list[Obj]) -> bool:
        whole = self.oracle.placed
        self.oracle.placed = [(p, n) for p, n in whole if p not in away]
        try:
            return not self.oracle.refuse(pod, node)
        finally:
            self.oracle.placed = whole

    def _violating(self, victims: list[Obj]) -> list[Obj]:
        left = [b.allowed for b in self.budgets]
        found = []
        for victim in victims:
            hit = False
            for i, budget in enumerate(self.budgets):
                meta = victim["metadata"]
                same = meta["namespace"] == budget.namespace
                if same and meta["labels"]["app"] == (budget.selector or {})["matchLabels"]["app"]:
                    left[i] -= 1
                    hit = hit or left[i] < 0
            if hit:
                found.append(victim)
        return found

    def victims(self, pod: Obj, node: str) -> tuple[list[Obj], int] | None:
        lower = sorted(
            (p for p in self.oracle.on(node) if self.priority[p["metadata"]["uid"]] < IMPORTANT), key=self._order
        )
        if not lower or not self._fits_without(pod, node, lower):
            return None
        guarded = self._violating(lower)
        away, broken = list(lower), 0
        for one in [*guarded, *(p for p in lower if p not in guarded)]:
            rest = [p for p in away if p is not one]
            if self._fits_without(pod, node, rest):
                away = rest
            elif one in guarded:
                broken += 1
        return away, broken

    def cost(self, victims: list[Obj], broken: int) -> tuple[float, ...]:
        uids = [v["metadata"]["uid"] for v in victims]
        highest = max(self.priority[u] for u in uids)
        earliest = min(self.started[u] for u in uids if self.priority[u] == highest)
        return broken, highest, sum(self.priority[u] + 2**31 for u in uids), len(uids), -earliest


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**48), st.booleans())
def test_the_victims_are_those_that_the_rules_name(seed: int, rules: bool) -> None:
    check(seed, rules=rules)


def check(seed: int, *, rules: bool) -> bool:
    """Whether somebody was evicted, so that a sweep can say how often it was asked in earnest."""
    rng = random.Random(seed)
    nodes = generated.nodes(rng, 5)
    columns, oracle = columns_of(nodes), Oracle(nodes, generated.NAMESPACES)
    budgets = [
        Budget(namespace, {"matchLabels": {"app": app}}, rng.randint(0, 2))
        for namespace, app in (("n1", "x"), ("n1", "y"), ("n2", "z"))
        if rng.random() < 0.5
    ]
    told = Rules(oracle, {}, {}, budgets)
    for pod in generated.pods(rng, 12, rules=rules):
        open_ = [n for n in oracle.nodes if not oracle.refuse(pod, n)]
        if not open_:
            continue
        uid, node = pod["metadata"]["uid"], rng.choice(open_)
        told.priority[uid], told.started[uid] = rng.choice((1, 5, 5, IMPORTANT)), float(len(oracle.placed))
        oracle.placed.append((pod, node))
        columns.place_pod(uid, node, shape_of(pod), priority=told.priority[uid], started=told.started[uid])
    body = generated.template(rng, rules=rules)
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1500m", "memory": "64Mi"}}
    body["metadata"] |= {"name": "new", "uid": "new"}
    asked = Pending("new", (body["metadata"]["namespace"], "new"), shape_of(body), priority=IMPORTANT)
    if feasible(columns, asked).any():
        return False
    waiting = Nominations()
    open_rows = diagnose(columns, asked, DEFAULT, waiting).resolvable
    answer: Any = preempt(columns, asked, open_rows, DEFAULT, waiting, budgets)
    found = {n: v for n in oracle.nodes if (v := told.victims(body, n)) is not None and v[0]}
    if not found:
        assert isinstance(answer, str), (seed, answer)
        return False
    assert isinstance(answer, Candidate), (seed, answer, found)
    best = min(told.cost(*v) for v in found.values())
    victims, broken = found[answer.node]
    assert told.cost(victims, broken) == best, (seed, answer.node)
    assert {v.uid for v in answer.victims} == {v["metadata"]["uid"] for v in victims}, seed
    assert answer.violations == broken
    return True
