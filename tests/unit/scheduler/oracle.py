"""What kube-scheduler documents, one node at a time in plain Python: slow, obvious, sharing nothing with the columns.

Works on API objects. `Oracle.refuse` gives the reasons one node is refused for, `Oracle.scores` the weighted total of
every feasible node.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from cluster.api.selectors import from_label_selector

Obj = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
GPU = "example.com/gpu"
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def _labels(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _expression(expression: Obj, labels: dict[str, str]) -> bool:
    have, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return have in values
        case "NotIn":
            return have not in values
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
        case "Gt":
            return have is not None and have.isdigit() and int(have) > int(values[0])
        case _:
            return have is not None and have.isdigit() and int(have) < int(values[0])


def _tolerated(pod: Obj, taint: Obj) -> bool:
    for t in pod["spec"].get("tolerations") or ():
        if t.get("effect") and t["effect"] != taint["effect"]:
            continue
        if t.get("key") and t["key"] != taint["key"]:
            continue
        if t.get("operator") == "Exists" or (t.get("key") and t.get("value", "") == taint.get("value", "")):
            return True
    return False


def _node_wanted(pod: Obj, node: Obj) -> bool:
    labels = _labels(node)
    if any(labels.get(k) != v for k, v in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    required = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    if not required:
        return True
    return any(all(_expression(e, labels) for e in t["matchExpressions"]) for t in required["nodeSelectorTerms"])


def _amounts(pod: Obj, *, idle: bool) -> tuple[int, int]:
    """(millicores, MiB) requested; `idle` containers count 100m and 200 MiB where they ask for nothing."""
    cpu = memory = 0
    for container in pod["spec"]["containers"]:
        asked = container.get("resources", {}).get("requests", {})
        cpu += int(asked["cpu"][:-1]) if "cpu" in asked else 100 * idle
        memory += int(asked["memory"][:-2]) if "memory" in asked else 200 * idle
    return cpu, memory


def _gpus(pod: Obj) -> int:
    return sum(int(c.get("resources", {}).get("requests", {}).get(GPU, 0)) for c in pod["spec"]["containers"])


class Oracle:
    def __init__(self, nodes: list[Obj], namespaces: dict[str, dict[str, str]]) -> None:
        self.nodes = {n["metadata"]["name"]: n for n in nodes}
        self.namespaces = namespaces
        self.placed: list[tuple[Obj, str]] = []

    def on(self, node: str) -> list[Obj]:
        return [pod for pod, where in self.placed if where == node]

    # ---- filters, in order

    def refuse(self, pod: Obj, name: str) -> list[str]:
        node = self.nodes[name]
        for one in (self._static, self._ports, self._fit, self._limits, self._spread, self._relations):
            reasons = one(pod, node)
            if reasons:
                return reasons
        return []

    def _static(self, pod: Obj, node: Obj) -> list[str]:
        cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if node["spec"].get("unschedulable") and not _tolerated(pod, cordon):
            return ["node(s) were unschedulable"]
        for taint in node["spec"].get("taints") or ():
            if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerated(pod, taint):
                return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
        return [] if _node_wanted(pod, node) else ["node(s) didn't match Pod's node affinity/selector"]

    def _ports(self, pod: Obj, node: Obj) -> list[str]:
        def ports(one: Obj) -> list[Obj]:
            return [p for c in one["spec"]["containers"] for p in c.get("ports", ())]

        def same(a: Obj, b: Obj) -> bool:
            ips = {a.get("hostIP", ""), b.get("hostIP", "")}
            return (a["hostPort"], a["protocol"]) == (b["hostPort"], b["protocol"]) and (len(ips) == 1 or "" in ips)

        taken = [p for other in self.on(node["metadata"]["name"]) for p in ports(other)]
        if any(same(a, b) for a in ports(pod) for b in taken):
            return ["node(s) didn't have free ports for the requested pod ports"]
        return []

    def _fit(self, pod: Obj, node: Obj) -> list[str]:
        here = self.on(node["metadata"]["name"])
        allocatable = node["status"]["allocatable"]
        cpu, memory = _amounts(pod, idle=False)
        used = [_amounts(other, idle=False) for other in here]
        short = []
        if len(here) + 1 > int(allocatable["pods"]):
            short.append("Too many pods")
        if cpu and sum(u[0] for u in used) + cpu > int(allocatable["cpu"]) * 1000:
            short.append("Insufficient cpu")
        if memory and sum(u[1] for u in used) + memory > int(allocatable["memory"][:-2]):
            short.append("Insufficient memory")
        if _gpus(pod) and sum(_gpus(other) for other in here) + _gpus(pod) > int(allocatable.get(GPU, 0)):
            short.append(f"Insufficient {GPU}")
        return short

    def _limits(self, pod: Obj, node: Obj) -> list[str]:
        there = {volume for other in self.on(node["metadata"]["name"]) for volume in other.get("attaches", ())}
        new = set(pod.get("attaches", ())) - there
        for driver, most in node.get("volumeLimits", {}).items():
            more = sum(1 for d, _ in new if d == driver)
            if more and more + sum(1 for d, _ in there if d == driver) > most:
                return ["node(s) exceed max volume count"]
        return []

    def _constraints(self, pod: Obj, when: str) -> list[Obj]:
        return [c for c in pod["spec"].get("topologySpreadConstraints") or () if c["whenUnsatisfiable"] == when]

    def _counting(self, pod: Obj, constraint: Obj, keys: list[str]) -> dict[str, int]:
        """Matching pods per domain over the nodes that count."""
        counts: dict[str, int] = {}
        for name, node in self.nodes.items():
            labels = _labels(node)
            if any(k not in labels for k in keys) or constraint["topologyKey"] not in labels:
                continue
            if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and not _node_wanted(pod, node):
                continue
            hard = [t for t in node["spec"].get("taints") or () if t["effect"] != "PreferNoSchedule"]
            honor = constraint.get("nodeTaintsPolicy", "Ignore") == "Honor"
            if honor and not all(_tolerated(pod, t) for t in hard):
                continue
            value = labels[constraint["topologyKey"]]
            counts[value] = counts.get(value, 0) + self._matching(pod, constraint, name)
        return counts

    def _matching(self, pod: Obj, constraint: Obj, node: str) -> int:
        return sum(self._selected(pod, constraint, other) for other in self.on(node))

    def _selected(self, pod: Obj, constraint: Obj, other: Obj) -> bool:
        if other["metadata"]["namespace"] != pod["metadata"]["namespace"] or "deletionTimestamp" in other["metadata"]:
            return False
        same = all(
            _labels(other).get(k) == _labels(pod)[k]
            for k in constraint.get("matchLabelKeys") or ()
            if k in _labels(pod)
        )
        return same and from_label_selector(constraint.get("labelSelector")).matches(_labels(other))

    def _spread(self, pod: Obj, node: Obj) -> list[str]:
        hard = self._constraints(pod, "DoNotSchedule")
        reason = "node(s) didn't match pod topology spread constraints"
        for constraint in hard:
            value = _labels(node).get(constraint["topologyKey"])
            if value is None:
                return [f"{reason} (missing required label)"]
            counts = self._counting(pod, constraint, [c["topologyKey"] for c in hard])
            least = min(counts.values(), default=0) if len(counts) >= constraint.get("minDomains", 1) else 0
            if counts.get(value, 0) + self._selected(pod, constraint, pod) - least > constraint["maxSkew"]:
                return [reason]
        return []

    # ---- rules between pods

    def _term_matches(self, owner: Obj, term: Obj, other: Obj) -> bool:
        names, wanted = term.get("namespaces") or [], term.get("namespaceSelector")
        namespace = other["metadata"]["namespace"]
        if not names and wanted is None:
            names = [owner["metadata"]["namespace"]]
        inside = namespace in names or (
            wanted is not None and from_label_selector(wanted).matches(self.namespaces.get(namespace, {}))
        )
        mine, theirs = _labels(owner), _labels(other)
        alike = all(theirs.get(k) == mine[k] for k in term.get("matchLabelKeys", ()) if k in mine)
        unlike = all(theirs.get(k) != mine[k] for k in term.get("mismatchLabelKeys", ()) if k in mine)
        return inside and alike and unlike and from_label_selector(term.get("labelSelector")).matches(theirs)

    @staticmethod
    def _terms(pod: Obj, side: str, kind: str) -> list[Any]:
        return ((pod["spec"].get("affinity") or {}).get(side) or {}).get(kind) or []

    def _same_domain(self, key: str, a: Obj, b: str) -> bool:
        value = _labels(a).get(key)
        return value is not None and _labels(self.nodes[b]).get(key) == value

    def _relations(self, pod: Obj, node: Obj) -> list[str]:
        near = self._terms(pod, "podAffinity", REQUIRED)
        if near and not self._near(pod, node, near):
            return ["node(s) didn't match pod affinity rules"]
        for term in self._terms(pod, "podAntiAffinity", REQUIRED):
            for other, where in self.placed:
                if self._same_domain(term["topologyKey"], node, where) and self._term_matches(pod, term, other):
                    return ["node(s) didn't match pod anti-affinity rules"]
        for other, where in self.placed:
            for term in self._terms(other, "podAntiAffinity", REQUIRED):
                if self._same_domain(term["topologyKey"], node, where) and self._term_matches(other, term, pod):
                    return ["node(s) didn't satisfy existing pods anti-affinity rules"]
        return []

    def _near(self, pod: Obj, node: Obj, terms: list[Obj]) -> bool:
        if any(t["topologyKey"] not in _labels(node) for t in terms):
            return False
        friends = [w for other, w in self.placed if all(self._term_matches(pod, t, other) for t in terms)]
        if all(any(self._same_domain(t["topologyKey"], node, w) for w in friends) for t in terms):
            return True
        alone = not any(t["topologyKey"] in _labels(self.nodes[w]) for t in terms for w in friends)
        return alone and all(self._term_matches(pod, t, pod) for t in terms)

    # ---- scores

    def scores(self, pod: Obj) -> dict[str, int]:
        """Weighted totals of the feasible nodes."""
        names = [n for n in self.nodes if not self.refuse(pod, n)]
        parts = (
            (1, {n: self._least(pod, n) for n in names}),
            (1, {n: self._balanced(pod, n) for n in names}),
            (3, self._taints(pod, names)),
            (2, self._node_preferences(pod, names)),
            (2, self._spread_scores(pod, names)),
            (2, self._relation_scores(pod, names)),
            (1, {n: self._images(pod, n) for n in names}),
        )
        return {n: sum(weight * part[n] for weight, part in parts) for n in names}

    def _load(self, pod: Obj, name: str, *, idle: bool) -> list[tuple[int, int]]:
        allocatable = self.nodes[name]["status"]["allocatable"]
        capacity = (int(allocatable["cpu"]) * 1000, int(allocatable["memory"][:-2]))
        loads = [_amounts(p, idle=idle) for p in [*self.on(name), pod]]
        return [(capacity[i], sum(load[i] for load in loads)) for i in (0, 1)]

    def _least(self, pod: Obj, name: str) -> int:
        load = self._load(pod, name, idle=True)
        return sum(max((c - u) * 100 // c, 0) for c, u in load) // 2

    def _balanced(self, pod: Obj, name: str) -> int:
        if _amounts(pod, idle=False) == (0, 0):
            return 0
        (c0, u0), (c1, u1) = self._load(pod, name, idle=False)
        return int((1 - abs((min(u0 / c0, 1.0) - min(u1 / c1, 1.0)) / 2)) * 100)

    def _images(self, pod: Obj, name: str) -> int:
        """Megabytes that are there already, each image weighed by how many nodes have it: 23 to 1000 a container."""

        def there(node: Obj) -> dict[str, int]:
            return {n: i["sizeBytes"] for i in node["status"].get("images", ()) for n in i["names"]}

        total = 0
        for container in pod["spec"]["containers"]:
            image = container["image"] if ":" in container["image"] else f"{container['image']}:latest"
            if image in there(self.nodes[name]):
                having = sum(image in there(node) for node in self.nodes.values())
                total += int(there(self.nodes[name])[image] * (having / len(self.nodes)))
        low, high = 23 << 20, (1000 << 20) * len(pod["spec"]["containers"])
        return 100 * (min(max(total, low), high) - low) // (high - low)

    def _taints(self, pod: Obj, names: list[str]) -> dict[str, int]:
        bad = {
            n: sum(
                t["effect"] == "PreferNoSchedule" and not _tolerated(pod, t)
                for t in self.nodes[n]["spec"].get("taints") or ()
            )
            for n in names
        }
        worst = max(bad.values(), default=0)
        return {n: 100 - bad[n] * 100 // worst if worst else 100 for n in names}

    def _node_preferences(self, pod: Obj, names: list[str]) -> dict[str, int]:
        raw = {
            n: sum(
                p["weight"]
                for p in self._terms(pod, "nodeAffinity", PREFERRED)
                if all(_expression(e, _labels(self.nodes[n])) for e in p["preference"]["matchExpressions"])
            )
            for n in names
        }
        best = max(raw.values(), default=0)
        return {n: raw[n] * 100 // best if best else 0 for n in names}

    def _soft(self, pod: Obj) -> tuple[list[Obj], list[str]]:
        """Soft constraints, and the labels a node must have to be scored: none for the default constraints."""
        if pod["spec"].get("topologySpreadConstraints") or "defaultSpread" not in pod:
            soft = self._constraints(pod, "ScheduleAnyway")
            return soft, [c["topologyKey"] for c in soft]
        defaults = ((HOST, 3), (ZONE, 5))
        return [{"topologyKey": k, "maxSkew": s, "labelSelector": pod["defaultSpread"]} for k, s in defaults], []

    def _spread_scores(self, pod: Obj, names: list[str]) -> dict[str, int]:
        soft, keys = self._soft(pod)
        if not soft:
            return dict.fromkeys(names, 0)
        scored = [n for n in names if all(k in _labels(self.nodes[n]) for k in keys)]
        raw = dict.fromkeys(scored, 0.0)
        for constraint in soft:
            key = constraint["topologyKey"]
            domains = {_labels(self.nodes[n]).get(key, "") for n in scored}
            counts = self._counting(pod, constraint, keys)
            for n in scored:
                value = _labels(self.nodes[n]).get(key)
                if value is None:
                    continue
                here = self._matching(pod, constraint, n) if key == HOST else counts.get(value, 0)
                size = len(scored) if key == HOST else len(domains)
                raw[n] += here * math.log(size + 2) + (constraint["maxSkew"] - 1)
        whole = {n: math.floor(v + 0.5) for n, v in raw.items()}
        low, high = min(whole.values(), default=0), max(whole.values(), default=0)
        return {n: (100 if high == 0 else 100 * (high + low - whole[n]) // high) if n in whole else 0 for n in names}

    def _relation_scores(self, pod: Obj, names: list[str]) -> dict[str, int]:
        raw = dict.fromkeys(names, 0)
        for side, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
            for other, where in self.placed:
                pulls = [
                    (w["podAffinityTerm"], sign * w["weight"])
                    for w in self._terms(pod, side, PREFERRED)
                    if self._term_matches(pod, w["podAffinityTerm"], other)
                ]
                pulls += [
                    (w["podAffinityTerm"], sign * w["weight"])
                    for w in self._terms(other, side, PREFERRED)
                    if self._term_matches(other, w["podAffinityTerm"], pod)
                ]
                if side == "podAffinity":
                    hard = self._terms(other, side, REQUIRED)
                    pulls += [(t, 1) for t in hard if self._term_matches(other, t, pod)]
                for term, weight in pulls:
                    for n in names:
                        raw[n] += weight * self._same_domain(term["topologyKey"], self.nodes[n], where)
        low, high = min(raw.values(), default=0), max(raw.values(), default=0)
        return {n: int(100 * Fraction(raw[n] - low, high - low)) if high > low else 0 for n in names}
