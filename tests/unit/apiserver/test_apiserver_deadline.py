"""`timeout=` and what a request that takes too long is told; the Audit-Id in the answer and in the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.support.apiserver_harness import edge
from tests.support.memory_store import MemoryStore

CM = "/api/v1/namespaces/default/configmaps"
MAP = {"metadata": {"name": "a"}}


class SlowStore(MemoryStore):
    """Transactions that wait for `go`; what is asked of a deadline is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.deadlines: list[float | None] = []

    async def txn(self, *arguments: Any, deadline: float | None = None) -> Any:
        self.deadlines.append(deadline)
        if not self.go.is_set():
            await self.go.wait()
        return await super().txn(*arguments)


@pytest.mark.parametrize("value", ["foo", "10", "-", "3d"])
async def test_a_timeout_that_is_none_is_refused(pki: Any, value: str) -> None:
    async with edge(pki) as server:
        got = await server.call("POST", f"{CM}?timeout={value}", MAP)
        assert (got.status, got.json["reason"]) == (400, "BadRequest")
        assert got.json["message"].startswith("invalid timeout specified in the request URL - time: ")
        assert (await server.call("GET", f"{CM}/a")).status == 404


async def test_a_request_past_its_timeout_is_504_and_logged_with_its_audit_id(pki: Any, caplog: Any) -> None:
    store = SlowStore()
    async with edge(pki, store=store) as server:
        store.go.clear()
        with caplog.at_level(logging.WARNING):
            got = await server.call("POST", f"{CM}?timeout=200ms", MAP, headers={"Audit-Id": "made-by-test"})
        assert (got.status, got.json["reason"], got.headers["Audit-Id"]) == (504, "Timeout", "made-by-test")
        assert got.json["message"] == "Timeout: request did not complete within the allotted timeout"
        assert "request made-by-test: POST" in caplog.text
        assert "request made-by-test, cause made-by-test" in caplog.text
        store.go.set()


async def test_the_deadline_reaches_the_store_and_is_capped(pki: Any) -> None:
    store = SlowStore()
    async with edge(pki, store=store, request_timeout_s=5.0) as server:
        loop = asyncio.get_running_loop()
        for timeout, most_s in (("1h", 5.0), ("0s", 5.0), ("2s", 2.0), ("", 5.0)):
            store.deadlines.clear()
            name = f"m{timeout or 'x'}"
            body = {"metadata": {"name": name}}
            began = loop.time()
            got = await server.call("POST", f"{CM}?timeout={timeout}" if timeout else CM, body)
            assert got.status == 201, got.body
            [deadline] = [d for d in store.deadlines if d is not None]
            assert began + most_s <= deadline <= loop.time() + most_s
