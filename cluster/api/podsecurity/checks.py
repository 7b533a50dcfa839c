"""What all Pod Security checks share: their shape, the visit of containers, and how a finding is worded.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]
Metadata = Mapping[str, Any]

LATEST = 1 << 30


@dataclass(frozen=True, slots=True)
class Violation:
    reason: str
    detail: str = ""


Run = Callable[[Metadata, Spec], Violation | None]


@dataclass(frozen=True, slots=True)
class Check:
    """`versions`: (first minor it applies to, what it does), ascending. `overrides`: baseline checks it replaces."""

    id: str
    versions: tuple[tuple[int, Run], ...]
    overrides: tuple[str, ...] = ()

    def at(self, version: int) -> Run | None:
        found = None
        for minor, run in self.versions:
            if minor <= version:
                found = run
        return found


def containers(spec: Spec) -> Iterator[Mapping[str, Any]]:
    """All of them, in the order in which they are named to the user."""
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field) or ()


def security(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    """The securityContext of a pod's spec or of a container; {} when there is none."""
    return holder.get("securityContext") or {}


def quoted(items: Iterable[str]) -> str:
    return ", ".join(f'"{i}"' for i in items)


def plural(singular: str, several: str, count: int) -> str:
    return singular if count == 1 else several


def named(names: list[str]) -> str:
    """`container "a"`, `containers "a", "b"`."""
    return f"{plural('container', 'containers', len(names))} {quoted(names)}"


def setters(pod: bool, names: list[str]) -> str:
    """Who did it: `pod and containers "a", "b"`; "" for nobody."""
    return " and ".join(filter(None, ("pod" if pod else "", named(names) if names else "")))


def in_user_namespace(spec: Spec) -> bool:
    """Root inside is nobody outside: some rules are not needed then."""
    return spec.get("hostUsers") is False


def is_windows(spec: Spec) -> bool:
    return bool((spec.get("os") or {}).get("name") == "windows")


def unless(condition: Callable[[Spec], bool], run: Run) -> Run:
    """`run`, but for pods it does not concern."""

    def guarded(metadata: Metadata, spec: Spec) -> Violation | None:
        return None if condition(spec) else run(metadata, spec)

    return guarded
