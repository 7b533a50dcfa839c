"""What came together is told together, in order, and no more of it than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from raft import client_watch
from raft.client_connection import ClientConnection

Told = Callable[[int, Any], None]


class _Connection:
    """The watch's end of one."""

    def __init__(self) -> None:
        self.tell: Told = lambda revision, said: None
        self.dropped = False

    def watch(self, on_batch: Told, *_: Any) -> tuple[int, asyncio.Future[int]]:
        self.tell = on_batch
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        begun.set_result(7)
        return 1, begun

    def unwatch(self, watch_id: int) -> None:
        self.dropped = True


async def started() -> tuple[client_watch._Stream, _Connection]:
    connection = _Connection()
    stream = client_watch._Stream(cast(ClientConnection, connection))
    assert await stream.start(b"a", b"b", 0, 0) == 7
    return stream, connection


async def test_revisions_that_came_together_are_one_batch_and_the_lists_of_others_are_left_alone() -> None:
    stream, connection = await started()
    lists = [["a"], ["b", "c"], ["d"]]
    for revision, events in enumerate(lists, 8):
        connection.tell(revision, events)
    assert await stream.next() == (10, ["a", "b", "c", "d"])
    assert lists == [["a"], ["b", "c"], ["d"]]
    connection.tell(11, ["e"])
    assert await stream.next() == (11, ["e"])


async def test_progress_and_the_end_are_told_by_themselves() -> None:
    stream, connection = await started()
    for revision, said in ((8, ["a"]), (9, []), (10, ["b"]), (11, ["c"]), (-1, ["compacted", "gone"])):
        connection.tell(revision, said)
    told = [await stream.next() for _ in range(4)]
    assert told == [(8, ["a"]), (9, []), (11, ["b", "c"]), (-1, ["compacted", "gone"])]


async def test_a_batch_that_grows_ends_with_a_whole_revision() -> None:
    stream, connection = await started()
    size = client_watch.TOGETHER_EVENTS // 2 + 1
    for revision in (8, 9, 10):
        connection.tell(revision, [revision] * size)
    assert await stream.next() == (9, [8] * size + [9] * size)
    assert await stream.next() == (10, [10] * size)


async def test_what_was_read_no_longer_counts_as_waiting() -> None:
    stream, connection = await started()
    for start in range(0, 5 * client_watch.BUFFER_EVENTS, client_watch.BUFFER_EVENTS):
        for revision in range(start, start + client_watch.BUFFER_EVENTS, 1000):
            connection.tell(revision + 8, [revision] * 1000)
        for _ in range(client_watch.BUFFER_EVENTS // 1000):
            await stream.next()
    assert not stream.overrun and not connection.dropped
