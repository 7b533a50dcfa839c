"""What was promised and did not hold, from what clients recorded and how the cluster looks at the end. Pure.

A write whose answer never came may or may not be there: only acknowledged ones are held against the cluster.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Object = Mapping[str, Any]


@dataclass(slots=True)
class Register:
    """One object that one client writes numbers to, in order: what was acknowledged, tried and seen by a watch."""

    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    final: int | None = None

    def problems(self, name: str, *, whole_watch: bool) -> list[str]:
        """`whole_watch`: the watch never had to list anew, so that it must have seen every acknowledged number."""
        found = []
        last = self.acknowledged[-1] if self.acknowledged else None
        possible = {last, *(n for n in self.unknown if last is None or n > last)}
        if self.final not in possible:
            found.append(f"{name}: {last} was acknowledged last, {self.final} is stored")
        if whole_watch and (missed := set(self.acknowledged) - self.seen):
            found.append(f"{name}: a watch without a gap never saw {sorted(missed)[:5]}")
        return found


def bank_problems(acknowledged: Iterable[str], transfers: Iterable[str], total: int, expected: int) -> list[str]:
    """Every acknowledged transfer is in the ledger, and no money was made or lost."""
    kept = set(transfers)
    lost = [name for name in acknowledged if name not in kept]
    found = [f"{len(lost)} acknowledged transfers are gone: {', '.join(lost[:5])}"] if lost else []
    if total != expected:
        found.append(f"the accounts hold {total}, they held {expected}")
    return found


def two_leaders(sights: Iterable[tuple[str, int]]) -> list[str]:
    """`sights`: (member, term) for every time a member called itself leader. One a term (Raft, election safety)."""
    by_term: defaultdict[int, set[str]] = defaultdict(set)
    for member, term in sights:
        by_term[term].add(member)
    return [f"term {term} had leaders {sorted(who)}" for term, who in sorted(by_term.items()) if len(who) > 1]


def shared_addresses(pods: Sequence[Object]) -> list[str]:
    """No two running pods have one address, but those that use their machine's."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for pod in pods:
        address = pod.get("status", {}).get("podIP", "")
        running = pod.get("status", {}).get("phase") in ("Pending", "Running")
        if address and running and not pod["spec"].get("hostNetwork"):
            owners[address].append(_name(pod))
    return [f"{address} belongs to {', '.join(names)}" for address, names in owners.items() if len(names) > 1]


def shared_identities(containers: Iterable[tuple[str, str]]) -> list[str]:
    """`containers`: (namespace/pod/container, machine) of all that run. A name runs once (StatefulSets)."""
    counts = Counter(containers)
    places: defaultdict[str, set[str]] = defaultdict(set)
    for name, machine in counts:
        places[name].add(machine)
    found = [f"{name} runs on {', '.join(sorted(where))}" for name, where in sorted(places.items()) if len(where) > 1]
    return found + [f"{name} runs {n} times on {machine}" for (name, machine), n in sorted(counts.items()) if n > 1]


def stuck(kind: str, objects: Sequence[Object]) -> list[str]:
    """Objects that still wait to be deleted, and pods that are neither running nor done."""
    found = [f"{kind} {_name(o)} is still being deleted" for o in objects if o["metadata"].get("deletionTimestamp")]
    if kind == "pod":
        phases = ((o, o.get("status", {}).get("phase")) for o in objects)
        found += [f"pod {_name(o)} is {phase}" for o, phase in phases if phase not in ("Running", "Succeeded")]
    return found


def _name(o: Object) -> str:
    meta = o["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a client: when it began and ended (s since the run began), and whether it was answered well."""

    began: float
    ended: float
    ok: bool


def failing_spans(
    calls: Iterable[Call], since: float, until: float, apart_s: float = 1.0
) -> list[tuple[float, float, int]]:
    """(seconds after ``since``, how long, failed requests): failures less than ``apart_s`` apart are one span."""
    spans: list[tuple[float, float, int]] = []
    for call in sorted((c for c in calls if not c.ok and since <= c.began <= until), key=lambda c: c.began):
        began, ended = call.began - since, call.ended - since
        if spans and began <= (last := spans[-1])[0] + last[1] + apart_s:
            spans[-1] = (last[0], max(last[1], ended - last[0]), last[2] + 1)
        else:
            spans.append((began, ended - began, 1))
    return spans


def error_time(spans: Iterable[tuple[float, float, int]]) -> float:
    """Seconds in which a client saw failures: the lengths of `failing_spans` together."""
    return sum(lasted for _, lasted, _ in spans)


def longest_pause(calls: Iterable[Call], since: float, until: float) -> float:
    """The longest time in [since, until] in which no request was answered well, in seconds."""
    moments = sorted({since, until, *(min(max(c.ended, since), until) for c in calls if c.ok)})
    return max((b - a for a, b in pairwise(moments)), default=0.0)
