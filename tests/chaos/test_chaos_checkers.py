"""The checkers notice what they are there for: each history is right but for one thing."""

from __future__ import annotations

import random
import time

import pytest

from tests.chaos.history import NEVER, Operation, check_linearizable, check_revisions, explain
from tests.chaos.watches import Watched, check_against, check_previous, check_reliable, check_streams, covered

K = b"k"


def put(value: bytes, start: float, end: float, revision: int = 0) -> Operation:
    return Operation(1, "put", K, value, start, end, revision)


def read(value: bytes | None, start: float, end: float, revision: int = 0) -> Operation:
    return Operation(2, "read", K, value, start, end, revision)


def cas(expected: bytes, value: bytes, start: float, end: float, succeeded: bool = True) -> Operation:
    return Operation(3, "cas", K, value, start, end, 0, expected, succeeded)


@pytest.mark.parametrize(
    ("history", "right"),
    [
        ([put(b"a", 0, 1), read(b"a", 2, 3)], True),
        ([put(b"a", 0, 1), read(None, 2, 3)], False),  # a lost write, or a stale read
        ([put(b"a", 0, 9), read(b"a", 1, 2), read(None, 3, 4)], False),  # back in time
        ([put(b"a", 0, 9), read(None, 1, 2), read(b"a", 3, 4)], True),
        ([put(b"a", 0, 5), put(b"b", 0, 5), read(b"a", 6, 7), read(b"b", 8, 9)], False),  # two orders
        ([put(b"a", 0, NEVER), read(None, 1, 2), read(b"a", 8, 9)], True),  # unknown: late
        ([put(b"a", 0, NEVER), read(None, 8, 9)], True),  # unknown: never
        ([put(b"a", 0, NEVER), read(b"a", 1, 2), read(None, 3, 4)], False),
        ([read(b"a", 0, 1), put(b"a", 2, 3)], False),  # from the future
        ([put(b"a", 0, 1), cas(b"a", b"b", 2, 3), read(b"b", 4, 5)], True),
        ([put(b"a", 0, 1), cas(b"a", b"b", 2, 3, succeeded=False)], False),
        ([put(b"a", 0, 1), cas(b"a", b"b", 2, 4), cas(b"a", b"c", 2, 4)], False),  # both won
        ([put(b"a", 0, 1), Operation(1, "delete", K, None, 2, 3), read(None, 4, 5)], True),
    ],
)
def test_linearizability(history: list[Operation], right: bool) -> None:
    assert (explain(history) is None) is right


def simulated(seed: int, count: int) -> list[Operation]:
    """A register that is right: eight clients whose operations take effect somewhere between call and return."""
    rng = random.Random(seed)
    state: bytes | None = None
    busy, now, found = [0.0] * 8, 0.0, []
    for i in range(count):
        now += rng.random()
        client = min(range(8), key=lambda c: busy[c])
        start, now = max(busy[client], now - rng.random() * 3), max(now, busy[client])
        end = now + rng.random() * 3
        busy[client] = end
        if rng.random() < 0.5:
            state = b"%d" % i
            found.append(Operation(client, "put", K, state, start, end if rng.random() > 0.02 else NEVER))
        else:
            found.append(Operation(client, "read", K, state, start, end))
    return found


def test_long_histories_are_judged_and_one_wrong_read_is_found() -> None:
    history = simulated(1, 2000)
    seen = {o.value: o.end for o in history if o.kind == "read" and o.value is not None}
    assert check_linearizable(history, seen) == []
    assert history[0].value is not None
    reads = [i for i, o in enumerate(history) if o.kind == "read" and o.value != history[0].value]
    at = reads[-1]
    wrong = [
        *history[:at],
        Operation(9, "read", K, history[0].value, history[at].start, history[at].end),
        *history[at + 1 :],
    ]
    assert len(check_linearizable(wrong, seen)) == 1


def test_an_unknown_write_without_a_trace_costs_nothing() -> None:
    history = [put(b"%d" % i, i, NEVER) for i in range(60)] + [read(None, 100, 101)]
    began = time.process_time()
    assert check_linearizable(history, {}) == []
    assert time.process_time() - began < 5


def test_revisions_follow_real_time() -> None:
    assert check_revisions([put(b"a", 0, 1, 5), put(b"b", 2, 3, 6), read(b"b", 4, 5, 6)]) == []
    assert check_revisions([put(b"a", 0, 1, 5), read(b"a", 2, 3, 4)])
    assert check_revisions([put(b"a", 0, 1, 5), put(b"b", 2, 3, 5)])
    assert check_revisions([put(b"a", 0, 3, 5), read(None, 2, 4, 4)]) == []


def stream(*batches: tuple[int, list[tuple[int, bytes, bytes | None, bytes | None]]], start: int = 1) -> Watched:
    return Watched("w", start, [(revision, events, 0.0) for revision, events in batches])


A2, B3, A4 = (2, b"a", b"1", None), (3, b"b", b"2", None), (4, b"a", None, b"1")


@pytest.mark.parametrize(
    ("watches", "problem"),
    [
        ([stream((2, [A2]), (3, [B3]), (4, [A4]))], ""),
        ([stream((3, [A2, B3]), (9, []))], ""),
        ([stream((3, [B3]), (2, [A2]))], "not ordered"),
        ([stream((2, [A2]), (2, [A2]))], "was complete"),
        ([stream((2, [A2]), (3, [A2, B3]))], "was complete"),
        ([stream((5, [])), stream((5, []), (3, [B3]))], "not ordered"),
        ([stream((3, [B3, A2]))], "are not ordered"),
        ([stream((2, [B3]))], "in a batch up to 2"),
        ([stream((2, [A2])), stream((2, [(2, b"a", b"other", None)]))], "another watch has"),
        ([stream((4, [A2, B3, A4])), stream((4, [A2, A4]))], "missing"),
        ([stream((4, [A2, B3, (4, b"a", None, b"wrong")]))], "the event says"),
    ],
)
def test_watch_guarantees(watches: list[Watched], problem: str) -> None:
    found, log = check_streams(watches)
    found += check_reliable(watches, log) + check_previous(log)
    assert bool(found) is bool(problem)
    assert problem in "".join(found)


@pytest.mark.parametrize(
    ("watches", "end"),
    [
        ([], 0),
        ([stream()], 0),
        ([stream((2, [A2]), (9, []))], 9),
        ([stream((9, []), start=5)], 0),
        ([stream((9, []), start=5), stream((4, [A2, B3, A4]))], 9),
        ([stream((9, []), start=6), stream((4, [A2, B3, A4]))], 4),
        ([stream((3, [A2, B3])), stream((9, []), start=2), stream(start=10)], 9),
    ],
)
def test_how_far_watches_have_seen_everything(watches: list[Watched], end: int) -> None:
    assert covered(watches) == end


def test_acknowledged_writes_and_reads_against_the_log() -> None:
    log = check_streams([stream((4, [A2, B3, A4]))])[1]
    assert (
        check_against([Operation(1, "put", b"a", b"1", 0, 1, 2), Operation(1, "read", b"a", b"1", 0, 1, 3)], log) == []
    )
    assert check_against([Operation(1, "put", b"a", b"x", 0, 1, 2)], log)
    assert check_against([Operation(1, "put", b"c", b"x", 0, 1, 7)], log)
    assert check_against([Operation(1, "read", b"a", b"1", 0, 1, 4)], log)
    assert check_against([Operation(1, "read", b"a", None, 0, 1, 4)], log) == []
