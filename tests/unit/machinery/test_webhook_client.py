"""A webhook's answer is read to its end, however it arrives, and not without a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from cluster.api.errors import ApiError
from cluster.machinery import webhooks
from cluster.machinery.webhooks import WebhookClient
from tests.support.stand_in import listening

SIZE = 1 << 20


async def nowhere(namespace: str, name: str) -> str:
    raise AssertionError("a URL is not resolved")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        body = orjson.dumps({"response": "x" * SIZE})
        for at in range(0, len(body), 10_000):
            await response.write(body[at : at + 10_000])
        return response

    app = web.Application()
    app.router.add_post("/", answer)
    async with listening(app) as port:
        yield f"http://127.0.0.1:{port}/"


async def test_an_answer_in_many_pieces_is_read_to_its_end(url: str) -> None:
    client = WebhookClient(nowhere)
    try:
        assert await client.post({"url": url}, {}, 60.0) == {"response": "x" * SIZE}
    finally:
        await client.close()


async def test_an_answer_over_the_limit_is_called_too_large(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_ANSWER_BYTES", SIZE)
    client = WebhookClient(nowhere)
    try:
        with pytest.raises(ApiError, match="the answer is larger than 1048576 bytes"):
            await client.post({"url": url}, {}, 60.0)
    finally:
        await client.close()
