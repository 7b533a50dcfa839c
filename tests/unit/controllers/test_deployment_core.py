"""Deployment plans and ReplicaSet victims as pure functions: invariants under any order of readiness."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.controllers import deployment_core as core
from cluster.controllers.deployment_view import rolling_bounds
from cluster.controllers.naming import template_hash
from cluster.controllers.replicaset_core import Plan, rank_victims, rest_s
from cluster.machinery.client import Obj, clone


def deployment(replicas: int, surge: Any, unavailable: Any, image: str) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "d"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"image": image}]}},
        },
    }


class Sim:
    """ReplicaSets that obey at once and pods that become available when the dice say so."""

    def __init__(self, d: Obj) -> None:
        self.d = d
        self.sets: dict[str, Obj] = {}

    def plan(self) -> core.Plan:
        return core.decide(self.d, list(self.sets.values()), old_pods=0, now=1000.0)

    def step(self) -> bool:
        plan = self.plan()
        for action in plan.actions:
            match action:
                case core.CreateReplicaSet(obj):
                    rs = clone(obj)
                    rs["metadata"] |= {"uid": obj["metadata"]["name"], "creationTimestamp": f"{len(self.sets):03}"}
                    rs["status"] = {}
                    self.sets[obj["metadata"]["name"]] = rs
                case core.UpdateReplicaSet(obj, _, _):
                    self.sets[obj["metadata"]["name"]] = clone(obj)
                case core.SetRevision(revision):
                    self.d["metadata"].setdefault("annotations", {})[core.REVISION] = revision
                case core.DeleteReplicaSet(obj):
                    del self.sets[obj["metadata"]["name"]]
        for rs in self.sets.values():
            want = rs["spec"]["replicas"]
            status = rs["status"]
            status["availableReplicas"] = status["readyReplicas"] = min(status.get("availableReplicas", 0), want)
            status["replicas"] = want
        self.d["status"] = plan.status
        return bool(plan.actions)

    def ready(self, rng: random.Random) -> None:
        for rs in self.sets.values():
            lacking = rs["status"]["replicas"] - rs["status"]["availableReplicas"]
            more = rng.randint(0, lacking)
            rs["status"]["availableReplicas"] += more
            rs["status"]["readyReplicas"] += more

    def rests(self, changed: bool) -> bool:
        """Nothing was decided, and every pod that is wanted is available."""
        return not changed and self.available() == self.total() == self.d["spec"]["replicas"]

    def total(self) -> int:
        return sum(rs["spec"]["replicas"] for rs in self.sets.values())

    def available(self) -> int:
        return sum(rs["status"]["availableReplicas"] for rs in self.sets.values())


amount = st.one_of(st.integers(0, 5), st.integers(0, 100).map(lambda p: f"{p}%"))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), amount, amount, st.integers(0, 2**32), st.integers(1, 3))
def test_a_rollout_keeps_its_bounds_and_ends(
    replicas: int, surge: Any, unavailable: Any, seed: int, turns: int
) -> None:
    rng = random.Random(seed)
    sim = Sim(deployment(replicas, surge, unavailable, "v0"))
    for version in range(turns + 1):
        sim.d["spec"]["template"]["spec"]["containers"][0]["image"] = f"v{version}"
        limit_up, limit_down = rolling_bounds(sim.d)
        floor = min(replicas - limit_down, sim.available()) if version else 0
        for _ in range(400):
            changed = sim.step()
            assert sim.total() <= replicas + limit_up
            assert sim.available() >= floor
            floor = max(floor, min(sim.available(), replicas - limit_down)) if version else 0
            before = sim.available()
            sim.ready(rng)
            if not changed and sim.available() == before and before == sim.total() == replicas:
                break
        else:
            raise AssertionError(f"no end: {[(r['spec']['replicas'], r['status']) for r in sim.sets.values()]}")
        new, old = core.split(sim.d, list(sim.sets.values()))
        assert new is not None and new["spec"]["replicas"] == replicas
        assert all(rs["spec"]["replicas"] == 0 for rs in old)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2**32), st.integers(0, 12))
def test_scaling_in_the_middle_of_a_rollout_ends_at_the_new_size(start: int, end: int, seed: int, after: int) -> None:
    rng = random.Random(seed)
    sim = Sim(deployment(start, "25%", "25%", "v0"))
    for _ in range(100):
        changed = sim.step()
        sim.ready(rng)
        if sim.rests(changed):
            break
    sim.d["spec"]["template"]["spec"]["containers"][0]["image"] = "v1"
    for _ in range(after):
        sim.step()
        sim.ready(rng)
    sim.d["spec"]["replicas"] = end
    for _ in range(400):
        changed = sim.step()
        assert sim.total() <= max(end + rolling_bounds(sim.d)[0], start + 3)
        if sim.rests(changed):
            break
        sim.ready(rng)
    else:
        raise AssertionError("no end")
    new, _ = core.split(sim.d, list(sim.sets.values()))
    assert new is not None and new["spec"]["replicas"] == end == sim.total()


def test_surge_rounds_up_unavailable_down_and_never_both_zero() -> None:
    assert rolling_bounds(deployment(10, "25%", "25%", "x")) == (3, 2)
    assert rolling_bounds(deployment(3, 0, 0, "x")) == (0, 1)
    assert rolling_bounds(deployment(1, "0%", "25%", "x")) == (0, 1)


def test_the_hash_is_stable_safe_and_moved_by_collisions() -> None:
    t = {"spec": {"containers": [{"image": "a", "name": "b"}]}}
    assert template_hash(t) == template_hash({"spec": {"containers": [{"name": "b", "image": "a"}]}})
    assert template_hash(t) != template_hash(t, 1) != template_hash(t, 2)
    assert set(template_hash(t)) <= set("bcdfghjklmnpqrstvwxz2456789")


def pod(name: str, *, node: str = "n1", phase: str = "Running", ready: bool = True, cost: str = "", **more: Any) -> Obj:
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": more.get("created", "2026-01-01T00:00:00Z"),
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost} if cost else {},
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": more.get("since", "2026-01-01T00:00:00Z"),
                }
            ],
            "containerStatuses": [{"restartCount": more.get("restarts", 0)}],
        },
    }


def test_victims_are_chosen_in_kubernetes_order() -> None:
    pods = [
        pod("old", since="2026-01-01T00:00:00Z"),
        pod("young", since="2026-01-31T00:00:00Z"),
        pod("restarted", restarts=5),
        pod("crowded", node="n2"),
        pod("cheap", cost="-10"),
        pod("unready", ready=False),
        pod("pending", phase="Pending", ready=False),
        pod("unassigned", node="", phase="Pending", ready=False),
    ]
    related = [*pods, *(pod(f"x{i}", node="n2") for i in range(9))]
    order = [p["metadata"]["name"] for p in rank_victims(pods, related, 1_772_000_000.0)]
    assert order == ["unassigned", "pending", "unready", "cheap", "crowded", "young", "restarted", "old"]


def test_a_crowd_rests_between_two_looks_but_not_while_more_has_to_be_made_or_deleted() -> None:
    settled, victims = Plan(0, ()), tuple(Obj() for _ in range(500))
    assert rest_s(settled, 10, 500) == 0.0
    assert 0.01 < rest_s(settled, 1000, 500) < rest_s(settled, 5000, 500) < 0.5
    assert rest_s(Plan(500, ()), 1000, 500) == rest_s(Plan(0, victims), 1000, 500) == 0.0
    assert rest_s(Plan(499, ()), 1000, 500) > 0.0
