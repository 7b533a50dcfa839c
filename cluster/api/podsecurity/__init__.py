"""Pod Security Standards: which level a namespace asks for, and what of a pod violates it.

Pure. A *policy* is three `LevelVersion`s (enforce, audit, warn) read from a namespace's labels; `evaluate` says what
in a pod's template violates one of them, in the words of Kubernetes' own admission. Checks are tables in `baseline` and
`restricted`: of each the newest version at or below the one asked for applies, and a restricted check may take the
place of a weaker baseline one.

Source: KEP-2579; k8s.io/pod-security-admission.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cluster.api.podsecurity import baseline, restricted
from cluster.api.podsecurity.checks import LATEST, Check, Run, Violation

Object = dict[str, Any]

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")  # in order of strictness
_VERSION = re.compile(r"v1\.(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class LevelVersion:
    """`version` is the minor of v1.<minor>, or LATEST."""

    level: str = "privileged"
    version: int = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{'latest' if self.version == LATEST else f'v1.{self.version}'}"


@dataclass(frozen=True, slots=True)
class Policy:
    enforce: LevelVersion = LevelVersion()
    audit: LevelVersion = LevelVersion()
    warn: LevelVersion = LevelVersion()

    @property
    def privileged(self) -> bool:
        return self.enforce.level == self.audit.level == self.warn.level == "privileged"


@dataclass(frozen=True, slots=True)
class Result:
    """What violates a level; empty when nothing does."""

    violations: tuple[Violation, ...] = ()

    @property
    def allowed(self) -> bool:
        return not self.violations

    @property
    def reasons(self) -> str:
        return ", ".join(v.reason for v in self.violations)

    @property
    def detail(self) -> str:
        return ", ".join(f"{v.reason} ({v.detail})" if v.detail else v.reason for v in self.violations)


def parse_level(text: str) -> str:
    """Raises ValueError with Kubernetes' message."""
    if text not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text


def parse_version(text: str) -> int:
    """Raises ValueError with Kubernetes' message."""
    if text == "latest":
        return LATEST
    m = _VERSION.fullmatch(text)
    if m is None:
        raise ValueError('must be "latest" or "v1.x"')
    return int(m[1])


def policy_of(labels: Mapping[str, str] | None, defaults: Policy) -> tuple[Policy, list[tuple[str, str, str]]]:
    """The policy of a namespace, and its faulty labels as (label, value, why).

    A level that cannot be read is restricted for enforcing (fail closed) and privileged for the others (fail open).
    """
    if not labels:
        return defaults, []
    faults: list[tuple[str, str, str]] = []
    read: dict[str, LevelVersion] = {}
    for mode in ("enforce", "audit", "warn"):
        given: LevelVersion = getattr(defaults, mode)
        level, version = given.level, given.version
        text = labels.get(PREFIX + mode)
        if text is not None:
            try:
                level = parse_level(text)
            except ValueError as e:
                faults.append((PREFIX + mode, text, str(e)))
                level = "restricted" if mode == "enforce" else "privileged"
        text = labels.get(f"{PREFIX}{mode}-version")
        if text is not None:
            try:
                version = parse_version(text)
            except ValueError as e:
                faults.append((f"{PREFIX}{mode}-version", text, str(e)))
                version = LATEST
        read[mode] = LevelVersion(level, version)
    enforce, warn = read["enforce"], read["warn"]
    if labels.get(PREFIX + "enforce") in LEVELS and PREFIX + "warn" not in labels and stricter(enforce, warn):
        version = warn.version if f"{PREFIX}warn-version" in labels else enforce.version
        warn = LevelVersion(enforce.level, version)  # who enforces wants to hear of templates too
    return Policy(enforce, read["audit"], warn), faults


def stricter(a: LevelVersion, b: LevelVersion) -> bool:
    return LEVELS.index(a.level) > LEVELS.index(b.level)


def evaluate(lv: LevelVersion, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Result:
    """`metadata` and `spec` of a pod or of a pod template."""
    if lv.level == "privileged":
        return Result()
    found = (run(metadata, spec) for run in _runs(lv.level, lv.version))
    return Result(tuple(v for v in found if v is not None))


@lru_cache(maxsize=256)
def _runs(level: str, version: int) -> tuple[Run, ...]:
    """Baseline checks first, each group by id: the order in which violations are listed."""
    chosen: dict[str, Run] = {}
    overridden: set[str] = set()
    strict = sorted(restricted.CHECKS, key=lambda c: c.id) if level == "restricted" else []
    for check in strict:
        if check.at(version) is not None:
            overridden |= set(check.overrides)
    for check in [*sorted(baseline.CHECKS, key=lambda c: c.id), *strict]:
        run = check.at(version)
        if run is not None and check.id not in overridden:
            chosen[check.id] = run
    return tuple(chosen.values())


__all__ = ["LATEST", "Check", "LevelVersion", "Policy", "Result", "evaluate", "parse_level", "parse_version",
           "policy_of", "stricter"]  # fmt: skip
