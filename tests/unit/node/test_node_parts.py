"""The kubelet passes on the metrics pages of the machine's other parts, and says so when there is none."""

from __future__ import annotations

import pytest
from aiohttp import web

from cluster.api.errors import ApiError
from cluster.node.parts import relay
from tests.support.stand_in import listening


async def test_a_page_comes_as_it_is() -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="up 1\n", headers={"X-Other": "kept here"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with listening(app) as port:
        answer = await relay({"state": port}, "state")
    assert (answer.status, answer.body) == (200, b"up 1\n")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_a_part_that_is_not_here_and_one_that_is_silent() -> None:
    with pytest.raises(ApiError, match="no part 'etcd'; it has: proxy, state") as unknown:
        await relay({"state": 1, "proxy": 2}, "etcd")
    assert unknown.value.code == 404
    with pytest.raises(ApiError, match="state does not answer") as silent:
        await relay({"state": 1}, "state")
    assert silent.value.code == 503
