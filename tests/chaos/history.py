"""What clients saw: operations with their times and outcomes, and whether some order explains them. Pure.

The model is a register per key. An operation is linearizable with the others of its key if there is one order of all,
in which each takes effect between its call and its return, and each read sees the value of the last write before it.
The search is Wing and Gong's with Lowe's memo of (operations done, state): states seen before are not searched again.
An operation whose outcome is unknown may have happened at any time after its call, or never.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Operation:
    """``kind``: "put" writes ``value``; "delete"; "read" saw ``value``; "cas" wrote ``value`` if it found ``expected``.

    ``value`` None is an absent key. ``revision``: of the write, or of the state that was read; 0 if unknown.
    ``end`` NEVER: it timed out, and may have happened at any time, or not at all.
    """

    client: int
    kind: str
    key: bytes
    value: bytes | None
    start: float
    end: float
    revision: int = 0
    expected: bytes | None = None
    succeeded: bool = True

    @property
    def known(self) -> bool:
        return self.end != NEVER

    @property
    def writes(self) -> bool:
        return self.kind in ("put", "delete") or (self.kind == "cas" and self.succeeded)


def after(state: bytes | None, operation: Operation) -> tuple[bool, bytes | None]:
    """(whether it could have happened in ``state``, the state after it)."""
    if operation.kind == "put":
        return True, operation.value
    if operation.kind == "delete":
        return True, None
    if operation.kind == "read":
        return state == operation.value, state
    found = state == operation.expected
    if not operation.known:
        return True, operation.value if found else state
    return found == operation.succeeded, operation.value if operation.succeeded else state


def explain(operations: Sequence[Operation], limit: int = 2_000_000) -> Operation | None:
    """None if some order explains all operations of one key; else the first that no order reaches.

    Raises OverflowError after ``limit`` states: that is no answer.
    """
    pending = sorted(operations, key=lambda o: o.start)
    # A state is (operations before ``base`` are done, bits of those from it on that are done, the value).
    seen: set[tuple[int, int, bytes | None]] = set()
    stack: list[tuple[int, int, bytes | None, int]] = [(0, 0, None, sum(o.known for o in pending))]
    furthest = 0
    while stack:
        base, done, state, left = stack.pop()
        if left == 0:
            return None
        if (base, done, state) in seen:
            continue
        seen.add((base, done, state))
        if len(seen) > limit:
            raise OverflowError(f"{len(operations)} operations of one key are too many to judge")
        furthest = max(furthest, base)
        for i in _possible_next(pending, base, done):
            possible, following = after(state, pending[i])
            if possible:
                stack.append((*_shifted(base, done | 1 << (i - base)), following, left - pending[i].known))
    return pending[furthest]


def _possible_next(pending: Sequence[Operation], base: int, done: int) -> list[int]:
    """Those that are not done and were called before the first of these returned."""
    open_, first_return = [], NEVER
    for i in range(base, len(pending)):
        if pending[i].start > first_return:
            break
        if not done >> (i - base) & 1:
            open_.append(i)
            first_return = min(first_return, pending[i].end)
    return [i for i in open_ if pending[i].start <= first_return]


def _shifted(base: int, done: int) -> tuple[int, int]:
    """The same operations, with as many as possible before ``base``."""
    while done & 1:
        done >>= 1
        base += 1
    return base, done


def settle(operations: Iterable[Operation], written: dict[bytes, float]) -> list[Operation]:
    """Unknown writes that left no trace are dropped; those that did, returned when the trace was seen at the latest.

    Values are unique, so a value that anybody read or watched tells that its write happened. ``written``: when each
    value was first seen. Without this every time-out doubles the search.
    """
    settled: list[Operation] = []
    for operation in operations:
        if operation.known or operation.kind == "delete":
            settled.append(operation)
        elif operation.value in written and operation.kind == "put":
            settled.append(replace(operation, end=max(written[operation.value], operation.start)))
        elif operation.value in written:
            settled.append(replace(operation, end=max(written[operation.value], operation.start), succeeded=True))
    return settled


def check_linearizable(operations: Iterable[Operation], written: dict[bytes, float]) -> list[str]:
    """What no order explains, a line for each key."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in settle(operations, written):
        by_key[operation.key].append(operation)
    found = []
    for key, mine in sorted(by_key.items()):
        stuck = explain(mine)
        if stuck is not None:
            found.append(f"key {key.decode()}: no order of {len(mine)} operations explains {stuck}")
    return found


def check_revisions(operations: Iterable[Operation]) -> list[str]:
    """Real time orders revisions: what is called after something returned has its revision at least (a write: more)."""
    ordered = [o for o in operations if o.known and o.revision]
    returns = sorted((o for o in ordered), key=lambda o: o.end)
    found, at, highest = [], 0, Operation(0, "read", b"", None, 0, 0)
    for operation in sorted(ordered, key=lambda o: o.start):
        while at < len(returns) and returns[at].end < operation.start:
            if returns[at].revision > highest.revision:
                highest = returns[at]
            at += 1
        if operation.revision < highest.revision or (operation.writes and operation.revision == highest.revision):
            found.append(f"{operation} began after {highest} had returned, and has no later revision")
    return found
