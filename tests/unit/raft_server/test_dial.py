"""What a connection attempt that is given up leaves behind: nothing that anybody would have had to wait for."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from raft.config import CLIENT_ROLE
from raft.errors import Unavailable
from raft.transport import dial
from raft.wire import Hello


async def test_a_connection_that_ends_after_it_was_given_up_is_no_unseen_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, unseen = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    connect = loop.create_connection

    async def too_late(*arguments: Any, **more: Any) -> None:
        await connect(*arguments, **more)
        raise TimeoutError

    monkeypatch.setattr(loop, "create_connection", too_late)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unavailable, match="timed out"):
            await dial(*server.sockets[0].getsockname(), None, Hello("client", "", 0), (CLIENT_ROLE,))
        for _ in range(5):
            await asyncio.sleep(0)
    gc.collect()
    assert unseen == []
