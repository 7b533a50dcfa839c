"""Random small clusters and pods with every kind of rule, from a seed."""

from __future__ import annotations

import random
from typing import Any

Obj = dict[str, Any]
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
DRIVERS = ("d1.example.com", "d2.example.com")
NAMESPACES = {"n1": {"team": "a"}, "n2": {"team": "b"}}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def nodes(rng: random.Random, most: int = 7) -> list[Obj]:
    """API objects; `volumeLimits` is what their CSINodes say."""
    made = []
    for i in range(rng.randint(1, most)):
        labels = {HOST: f"h{i}"}
        if rng.random() < 0.85:
            labels[ZONE] = rng.choice("abc")
        if rng.random() < 0.5:
            labels["disk"] = rng.choice(["ssd", "hdd"])
        if rng.random() < 0.3:
            labels["gen"] = rng.choice(["1", "5", "old"])
        effects = ("NoSchedule", "NoExecute", "PreferNoSchedule", "PreferNoSchedule")
        taints = [
            {"key": rng.choice("kl"), "value": rng.choice("vw"), "effect": rng.choice(effects)}
            for _ in range(rng.choice((0, 0, 0, 1, 2)))
        ]
        spec: Obj = {"taints": taints}
        if rng.random() < 0.08:
            spec["unschedulable"] = True
        allocatable = {"cpu": str(rng.randint(1, 6)), "memory": f"{rng.randint(500, 6000)}Mi"}
        allocatable["pods"] = str(rng.choice((3, 8, 110)))
        if rng.random() < 0.3:
            allocatable["example.com/gpu"] = str(rng.randint(1, 2))
        status: Obj = {"allocatable": allocatable}
        if rng.random() < 0.4:
            size = rng.choice((10, 300, 900, 3000)) << 20
            status["images"] = [{"names": [rng.choice(("web:1", "i:latest"))], "sizeBytes": size}]
        one: Obj = {"metadata": {"name": f"node{i}", "labels": labels}, "spec": spec, "status": status}
        one["volumeLimits"] = {driver: rng.randint(0, 3) for driver in DRIVERS if rng.random() < 0.4}
        made.append(one)
    return made


def _selector(rng: random.Random) -> Obj | None:
    return rng.choice(
        (
            {"matchLabels": {"app": rng.choice("xy")}},
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]},
            {"matchExpressions": [{"key": "tier", "operator": "Exists"}]},
            {},
            {"matchLabels": {"app": rng.choice("xy")}},
        )
    )


def _term(rng: random.Random) -> Obj:
    term: Obj = {"topologyKey": rng.choice((HOST, ZONE)), "labelSelector": _selector(rng)}
    where = rng.random()
    if where < 0.15:
        term["namespaces"] = [rng.choice(("n1", "n2"))]
    elif where < 0.3:
        term["namespaceSelector"] = rng.choice(({}, {"matchLabels": {"team": "a"}}))
    if rng.random() < 0.15:
        term[rng.choice(("matchLabelKeys", "mismatchLabelKeys"))] = ["tier"]
    return term


def _spread(rng: random.Random) -> Obj:
    made: Obj = {
        "topologyKey": rng.choice((HOST, ZONE)),
        "maxSkew": rng.randint(1, 2),
        "whenUnsatisfiable": rng.choice(("DoNotSchedule", "ScheduleAnyway")),
        "labelSelector": _selector(rng),
    }
    if made["whenUnsatisfiable"] == "DoNotSchedule" and rng.random() < 0.3:
        made["minDomains"] = rng.randint(1, 4)
    if rng.random() < 0.3:
        made["nodeAffinityPolicy"] = rng.choice(("Honor", "Ignore"))
    if rng.random() < 0.3:
        made["nodeTaintsPolicy"] = rng.choice(("Honor", "Ignore"))
    if rng.random() < 0.2:
        made["matchLabelKeys"] = ["tier"]
    return made


def _node_expression(rng: random.Random) -> Obj:
    return rng.choice(
        (
            {"key": "disk", "operator": "In", "values": ["ssd"]},
            {"key": "disk", "operator": "NotIn", "values": ["ssd"]},
            {"key": ZONE, "operator": "In", "values": ["a", "b"]},
            {"key": "gen", "operator": rng.choice(("Exists", "DoesNotExist"))},
            {"key": "gen", "operator": rng.choice(("Gt", "Lt")), "values": ["3"]},
        )
    )


def _affinity(rng: random.Random) -> Obj:
    affinity: Obj = {}
    if rng.random() < 0.25:
        terms = [{"matchExpressions": [_node_expression(rng)]} for _ in range(rng.randint(1, 2))]
        affinity["nodeAffinity"] = {_REQUIRED: {"nodeSelectorTerms": terms}}
    if rng.random() < 0.25:
        preferred = [{"weight": rng.randint(1, 100), "preference": {"matchExpressions": [_node_expression(rng)]}}]
        affinity.setdefault("nodeAffinity", {})[_PREFERRED] = preferred
    for side in ("podAffinity", "podAntiAffinity"):
        if rng.random() < 0.2:
            affinity.setdefault(side, {})[_REQUIRED] = [_term(rng) for _ in range(rng.randint(1, 2))]
        if rng.random() < 0.2:
            weighted = [
                {"weight": rng.randint(1, 100), "podAffinityTerm": _term(rng)} for _ in range(rng.randint(1, 2))
            ]
            affinity.setdefault(side, {})[_PREFERRED] = weighted
    return affinity


def template(rng: random.Random, *, rules: bool = True) -> Obj:
    """Metadata and spec of a pod without a name; `defaultSpread`: the selector of its Services, as if it had some."""
    container: Obj = {"name": "c", "image": rng.choice(("i", "web:1")), "resources": {}}
    if rng.random() < 0.85:
        container["resources"]["requests"] = {
            "cpu": f"{rng.choice((50, 100, 333, 900))}m",
            "memory": f"{rng.choice((64, 100, 700))}Mi",
        }
    if rng.random() < 0.1:
        port = {"containerPort": 80, "hostPort": rng.choice((8080, 8081)), "protocol": rng.choice(("TCP", "UDP"))}
        container["ports"] = [port | rng.choice(({}, {"hostIP": "10.0.0.1"}, {"hostIP": "10.0.0.2"}))]
    if rng.random() < 0.1:
        container["resources"].setdefault("requests", {})["example.com/gpu"] = "1"
    spec: Obj = {"containers": [container]}
    if rng.random() < 0.4:
        spec["tolerations"] = [
            rng.choice(({"operator": "Exists"}, {"key": "k", "operator": "Exists"}, {"key": "l", "value": "v"}))
        ]
    if rng.random() < 0.15:
        spec["nodeSelector"] = {"disk": "ssd"}
    if rules and (affinity := _affinity(rng)):
        spec["affinity"] = affinity
    if rules and rng.random() < 0.35:
        spec["topologySpreadConstraints"] = [_spread(rng) for _ in range(rng.randint(1, 2))]
    labels = {"app": rng.choice("xyz")}
    if rng.random() < 0.5:
        labels["tier"] = rng.choice("pq")
    made: Obj = {"metadata": {"namespace": rng.choice(("n1", "n1", "n2")), "labels": labels}, "spec": spec}
    if rules and rng.random() < 0.4 and "topologySpreadConstraints" not in spec:
        made["defaultSpread"] = {"matchLabels": {"app": labels["app"]}}
    return made


def _attached(rng: random.Random) -> list[tuple[str, str]]:
    """Volumes (driver, handle) that the pod's claims attach; some pods share some."""
    if rng.random() < 0.6:
        return []
    return [(rng.choice(DRIVERS), rng.choice("rstuvw")) for _ in range(rng.randint(1, 3))]


def pods(rng: random.Random, count: int, *, run: int = 1, rules: bool = True) -> list[Obj]:
    """`count` templates, each of a run of up to `run` equal pods."""
    made: list[Obj] = []
    for _ in range(count):
        one = template(rng, rules=rules)
        for _ in range(rng.randint(1, run)):
            name = f"p{len(made)}"
            meta = one["metadata"] | {"name": name, "uid": f"uid-{name}"}
            made.append(one | {"metadata": meta, "status": {}, "attaches": _attached(rng)})
    return made
