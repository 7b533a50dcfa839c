"""How pods relate to pods: who matches which selector, counted per row and per topology domain. Pure.

Three tables, all updated in place when a pod is placed or taken away:
- `PodClass`: pods that no selector can tell apart (namespace, labels, being deleted or not), with their rows;
- `PodSet`: a selector somebody asked about (affinity terms, spread constraints) and how many pods it matches per row;
- `ExistingTerm`: an affinity term that placed pods carry, and how much of it (pods, or weights) sits on each row. It is
  what makes anti-affinity symmetric.

A `Tally` sums its rows per topology domain when first asked and keeps the sums current from then on; it starts again
when a node's label of that key changed.

Invariant: for every known set, `tally.rows[r]` is the number of placed pods on row r whose class matches; for every
term, the sum of the amounts its carriers put there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.api.selectors import LabelSelector, Requirement, from_label_selector
from cluster.scheduler.shape import PodShape

if TYPE_CHECKING:
    from cluster.scheduler.columns import NodeColumns

Floats = NDArray[np.float64]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_MAX_SETS = 1024
_MAX_IDLE_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class PodMatcher:
    """One selector over pods. `namespaces` None: all of them; `namespace_selector` adds those whose labels match."""

    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None = None
    ignore_terminating: bool = False


Matchers = tuple[PodMatcher, ...]
"""All must match."""


class Tally:
    """A number per row, and its sum per domain of the topology keys asked for."""

    __slots__ = ("_domains", "rows", "total")

    def __init__(self, size: int) -> None:
        self.rows: Floats = np.zeros(size)
        self.total = 0.0
        self._domains: dict[str, tuple[int, Floats]] = {}

    def add(self, columns: NodeColumns, row: int, amount: float) -> None:
        self.rows[row] += amount
        self.total += amount
        for key, (version, sums) in self._domains.items():
            column = columns.labels[key]
            if column.version == version and column.codes[row] >= 0:
                sums[column.codes[row]] += amount

    def domain(self, columns: NodeColumns, key: str) -> Floats:
        """Sums by label code; one more element at the end stays 0, for rows without the label (code -1)."""
        column = columns.label(key)
        known = self._domains.get(key)
        if known is not None and known[0] == column.version:
            return known[1]
        has = np.flatnonzero(column.codes >= 0)
        sums = np.zeros(len(column.values) + 1)
        counted = np.bincount(column.codes[has], weights=self.rows[has], minlength=len(column.values))
        sums[: len(counted)] = counted
        self._domains[key] = (column.version, sums)
        return sums

    def grow(self, size: int) -> None:
        self.rows = np.pad(self.rows, (0, size - len(self.rows)))


@dataclass(eq=False, slots=True)
class PodSet:
    matchers: Matchers
    tally: Tally
    members: list[PodClass] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class ExistingTerm:
    """`anti` keeps matching pods out of the domain; otherwise the tally's weights score it."""

    matcher: PodMatcher
    topology_key: str
    anti: bool
    tally: Tally
    carriers: int = 0


@dataclass(eq=False, slots=True)
class PodClass:
    namespace: str
    labels: dict[str, str]
    terminating: bool
    rows: dict[int, int] = field(default_factory=dict)
    sets: list[PodSet] = field(default_factory=list)
    terms: list[ExistingTerm] = field(default_factory=list)
    terms_generation: int = -1


ClassKey = tuple[str, tuple[tuple[str, str], ...], bool]


@dataclass(frozen=True, slots=True)
class Term:
    """A pod's own affinity term. `weight` 0: required."""

    matcher: PodMatcher
    topology_key: str
    weight: int = 0


@dataclass(frozen=True, slots=True)
class PodTerms:
    affinity: tuple[Term, ...] = ()
    anti: tuple[Term, ...] = ()
    preferred: tuple[Term, ...] = ()


NO_TERMS = PodTerms()


class Relations:
    """`hard_weight`: what a placed pod's required affinity adds to the score of those it wants near."""

    def __init__(self, size: int, hard_weight: int = 1) -> None:
        self._size = size
        self._hard_weight = hard_weight
        self._classes: dict[ClassKey, PodClass] = {}
        self._sets: OrderedDict[Matchers, PodSet] = OrderedDict()
        self._terms: dict[tuple[PodMatcher, str, bool], ExistingTerm] = {}
        self._generation = 0
        self._namespaces: dict[str, dict[str, str]] = {}
        self._parsed: dict[tuple[str, tuple[tuple[str, str], ...], bytes], PodTerms] = {}

    # ---- what is asked

    def class_of(self, shape: PodShape) -> PodClass:
        """The class of a pod, with the terms of placed pods that concern it up to date."""
        found = self._class(shape)
        if found.terms_generation != self._generation:
            found.terms = [t for t in self._terms.values() if self.matches((t.matcher,), found)]
            found.terms_generation = self._generation
        return found

    def pod_set(self, columns: NodeColumns, matchers: Matchers) -> PodSet:
        """The counted set of a selector, counted now if nobody asked before."""
        known = self._sets.get(matchers)
        if known is not None:
            self._sets.move_to_end(matchers)
            return known
        made = self._sets[matchers] = PodSet(matchers, Tally(self._size))
        for one in self._classes.values():
            if self.matches(matchers, one):
                one.sets.append(made)
                made.members.append(one)
                for row, count in one.rows.items():
                    made.tally.add(columns, row, count)
        if len(self._sets) > _MAX_SETS:
            _, oldest = self._sets.popitem(last=False)
            for one in oldest.members:
                one.sets.remove(oldest)
        return made

    def terms_of(self, shape: PodShape) -> PodTerms:
        if not shape.pod_affinity:
            return NO_TERMS
        key = (shape.namespace, shape.labels, shape.pod_affinity)
        terms = self._parsed.get(key)
        if terms is None:
            if len(self._parsed) > 10_000:
                self._parsed.clear()
            terms = self._parsed[key] = parse_terms(shape)
        return terms

    def matches(self, matchers: Matchers, pod: PodClass) -> bool:
        return all(self._matches_one(m, pod) for m in matchers)

    def _matches_one(self, matcher: PodMatcher, pod: PodClass) -> bool:
        if matcher.ignore_terminating and pod.terminating:
            return False
        if pod.namespace not in matcher.namespaces:
            wanted = matcher.namespace_selector
            if wanted is None or not wanted.matches(self._namespaces.get(pod.namespace)):
                return False
        return matcher.selector.matches(pod.labels)

    # ---- what changes

    def account(self, columns: NodeColumns, row: int, shape: PodShape, sign: int) -> None:
        """A pod of this shape came to (1) or left (-1) a row."""
        one = self._class(shape)
        count = one.rows.get(row, 0) + sign
        if count:
            one.rows[row] = count
        else:
            del one.rows[row]
        for known in one.sets:
            known.tally.add(columns, row, sign)
        if shape.pod_affinity:
            self._account_terms(columns, row, shape, sign)

    def set_namespace(self, columns: NodeColumns, name: str, labels: dict[str, str] | None) -> None:
        """Labels of a namespace; None: it is gone. Sets that select namespaces are counted anew when next asked."""
        if self._namespaces.get(name) == labels:
            return
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        self._generation += 1
        for matchers, known in list(self._sets.items()):
            if any(m.namespace_selector is not None for m in matchers):
                del self._sets[matchers]
                for one in known.members:
                    one.sets.remove(known)

    def grow(self, size: int) -> None:
        self._size = size
        for known in self._sets.values():
            known.tally.grow(size)
        for term in self._terms.values():
            term.tally.grow(size)

    def _class(self, shape: PodShape) -> PodClass:
        key = (shape.namespace, shape.labels, shape.terminating)
        found = self._classes.get(key)
        if found is None:
            if len(self._classes) > _MAX_IDLE_CLASSES:
                self._drop_idle()
            found = self._classes[key] = PodClass(shape.namespace, dict(shape.labels), shape.terminating)
            for known in self._sets.values():
                if self.matches(known.matchers, found):
                    found.sets.append(known)
                    known.members.append(found)
        return found

    def _drop_idle(self) -> None:
        for key in [k for k, one in self._classes.items() if not one.rows]:
            one = self._classes.pop(key)
            for known in one.sets:
                known.members.remove(one)

    def _account_terms(self, columns: NodeColumns, row: int, shape: PodShape, sign: int) -> None:
        terms = self.terms_of(shape)
        for term in terms.anti:
            self._carry(columns, row, term, True, 1, sign)
        for term in terms.affinity:
            self._carry(columns, row, term, False, self._hard_weight, sign)
        for term in terms.preferred:
            self._carry(columns, row, term, False, term.weight, sign)

    def _carry(self, columns: NodeColumns, row: int, term: Term, anti: bool, weight: int, sign: int) -> None:
        key = (term.matcher, term.topology_key, anti)
        known = self._terms.get(key)
        if known is None:
            known = self._terms[key] = ExistingTerm(term.matcher, term.topology_key, anti, Tally(self._size))
            self._generation += 1
        known.carriers += sign
        known.tally.add(columns, row, sign * weight)
        if known.carriers == 0:
            del self._terms[key]
            self._generation += 1


# ---- reading terms from a pod


def with_label_keys(
    selector: LabelSelector, labels: dict[str, str], keys: list[str], mismatch: list[str] | None = None
) -> LabelSelector:
    """matchLabelKeys and mismatchLabelKeys: the pod's own values join the selector; keys it lacks are ignored."""
    extra = [Requirement(k, "In", (labels[k],)) for k in keys if k in labels]
    extra += [Requirement(k, "NotIn", (labels[k],)) for k in mismatch or () if k in labels]
    if not extra or selector.nothing:
        return selector
    return LabelSelector((*selector.requirements, *(r for r in extra if r not in selector.requirements)))


def _term(term: dict[str, Any], shape: PodShape, labels: dict[str, str], weight: int = 0) -> Term:
    selector = with_label_keys(
        from_label_selector(term.get("labelSelector")),
        labels,
        term.get("matchLabelKeys") or [],
        term.get("mismatchLabelKeys") or [],
    )
    namespaces, wanted = term.get("namespaces") or (), term.get("namespaceSelector")
    if not namespaces and wanted is None:
        namespaces = (shape.namespace,)
    matcher = PodMatcher(selector, frozenset(namespaces), None if wanted is None else from_label_selector(wanted))
    return Term(matcher, term["topologyKey"], weight)


def parse_terms(shape: PodShape) -> PodTerms:
    rules, labels = orjson.loads(shape.pod_affinity), dict(shape.labels)
    near, apart = rules.get("podAffinity") or {}, rules.get("podAntiAffinity") or {}
    preferred = [
        _term(one["podAffinityTerm"], shape, labels, sign * int(one["weight"]))
        for side, sign in ((near, 1), (apart, -1))
        for one in side.get(PREFERRED) or ()
    ]
    return PodTerms(
        tuple(_term(t, shape, labels) for t in near.get(REQUIRED) or ()),
        tuple(_term(t, shape, labels) for t in apart.get(REQUIRED) or ()),
        tuple(preferred),
    )
