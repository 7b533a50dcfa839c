"""What watchers saw, against each other and against what was acknowledged: the guarantees of the event stream. Pure.

Ordered, unique, atomic (a revision is never split), resumable (a new connection goes on behind the last batch),
bookmarkable (nothing at or below a progress revision follows), reliable (no gaps), and previous values are right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.history import Operation

Change = tuple[bytes, bytes | None, bytes | None]
"""(key, value, or None for a delete, previous value)."""


@dataclass(slots=True)
class Watched:
    """One watch's batches, as they came: (revision, [(mod revision, key, value, previous value)...], when)."""

    name: str
    start: int
    batches: list[tuple[int, list[tuple[int, bytes, bytes | None, bytes | None]], float]] = field(default_factory=list)
    compacted_at: int = 0
    """It fell behind compaction and was told so: it ends here."""


def covered(watches: Iterable[Watched]) -> int:
    """The last revision up to which these watches together have seen everything; 0 if they have seen nothing."""
    end = 0
    for watched in sorted(watches, key=lambda w: w.start):
        if watched.batches and watched.start <= end + 1:
            end = max(end, watched.batches[-1][0])
    return end


def check_streams(watches: Iterable[Watched]) -> tuple[list[str], dict[int, list[Change]]]:
    """What is wrong with each watch by itself or with two together; and the changes of each revision."""
    found: list[str] = []
    log: dict[int, list[Change]] = {}
    for watched in watches:
        reached = watched.start - 1
        for revision, events, _ in watched.batches:
            if revision < reached:
                found.append(f"{watched.name}: revision {revision} after {reached}: not ordered")
            by_revision: dict[int, list[Change]] = {}
            for mod, key, value, previous in events:
                if mod <= reached:
                    found.append(f"{watched.name}: an event of {mod} after {reached} was complete")
                if mod > revision:
                    found.append(f"{watched.name}: an event of {mod} in a batch up to {revision}")
                by_revision.setdefault(mod, []).append((key, value, previous))
            if list(by_revision) != sorted(by_revision):
                found.append(f"{watched.name}: the events up to {revision} are not ordered")
            for mod, changes in by_revision.items():
                if log.setdefault(mod, changes) != changes:
                    found.append(f"{watched.name}: revision {mod} is {changes}, another watch has {log[mod]}")
            reached = max(reached, revision)
    return found, log


def check_reliable(watches: Iterable[Watched], log: dict[int, list[Change]]) -> list[str]:
    """Each watch has everything between its start and where it got."""
    found = []
    revisions = sorted(log)
    for watched in watches:
        seen = {mod for _, events, _ in watched.batches for mod, *_ in events}
        end = watched.batches[-1][0] if watched.batches else 0
        missing = [r for r in revisions if watched.start <= r <= end and r not in seen]
        if missing:
            found.append(
                f"{watched.name}: {len(missing)} revisions of {watched.start} to {end} are missing: {missing[:5]}"
            )
    return found


def check_previous(log: dict[int, list[Change]]) -> list[str]:
    """Previous values follow from the log itself, where it is complete for the key."""
    found = []
    state: dict[bytes, bytes | None] = {}
    for revision, changes in sorted(log.items()):
        for key, value, previous in changes:
            if key in state and state[key] != previous:
                found.append(f"revision {revision}: {key.decode()} was {state[key]!r}, the event says {previous!r}")
            state[key] = value
    return found


def check_against(operations: Iterable[Operation], log: dict[int, list[Change]]) -> list[str]:
    """Acknowledged writes are in the log at their revision, and reads saw the log's state at theirs."""
    found = []
    writes = [o for o in operations if o.known and o.writes and o.revision]
    for o in writes:
        changes = log.get(o.revision, [])
        if o.kind == "delete" and not changes:
            continue  # there was nothing to delete
        if not any(key == o.key and value == o.value for key, value, _ in changes):
            found.append(f"{o} was acknowledged; no watch saw it there, but {changes}")
    by_key: dict[bytes, list[tuple[int, bytes | None]]] = {}
    for revision, changes in sorted(log.items()):
        for key, value, _ in changes:
            by_key.setdefault(key, []).append((revision, value))
    for o in operations:
        if o.kind == "read" and o.known and o.revision:
            past = [value for revision, value in by_key.get(o.key, []) if revision <= o.revision]
            if (past[-1] if past else None) != o.value:
                found.append(f"{o}: at that revision the log has {past[-1:]}")
    return found
