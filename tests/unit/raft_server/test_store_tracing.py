"""Calls of the store in a span: what the client shows, what the member shows, and members that know no tracing."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.errors import Invalid, StoreError
from raft.tracing import TRACED
from tests.support.recording_tracer import RecordingTracer
from tests.unit.raft_server.test_one_member import One, serving

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TXN, RANGE = "etcdserverpb.KV/Txn", "etcdserverpb.KV/Range"


async def test_a_member_shows_each_call_under_the_callers_span(tmp_path: Path) -> None:
    asks, does = RecordingTracer(HEADER), RecordingTracer()
    one = One(tmp_path / "m", tracer=does)
    async with serving(one):
        await one.client().put(b"leads", b"")
        client = one.client(tracer=asks)
        await client.put(b"k", b"v")
        assert (await client.range(b"k")).kvs[0].value == b"v"
        with pytest.raises(StoreError, match="future revision"):
            await client.range(b"k", revision=1_000)
    assert [span.name for span in asks.spans] == [TXN, RANGE, RANGE]
    assert [(span.name, span.under, span.ended) for span in does.spans] == [
        (TXN, HEADER, True), (RANGE, HEADER, True), (RANGE, HEADER, True),
    ]  # fmt: skip
    assert [bool(span.error) for span in does.spans] == [False, False, True]


async def test_what_nobody_samples_is_an_ordinary_call(tmp_path: Path) -> None:
    asks, does = RecordingTracer(""), RecordingTracer()
    one = One(tmp_path / "m", tracer=does)
    async with serving(one):
        await one.client(tracer=asks).put(b"k", b"v")
    assert asks.spans == does.spans == []


async def test_a_member_that_does_not_trace_does_what_is_asked(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client(tracer=RecordingTracer(HEADER))
        assert await client.put(b"k", b"v") > 1


@pytest.mark.parametrize("arguments", [(), (HEADER,), (7, "txn"), (HEADER, TRACED, HEADER, "txn"), (HEADER, "nothing")])
async def test_what_is_no_traced_request_is_refused_and_the_member_goes_on(
    tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    one = One(tmp_path / "m", tracer=RecordingTracer())
    async with serving(one):
        client = one.client()
        await client.put(b"serves", b"")
        connection = await client.connection(client.endpoints[0])
        with pytest.raises(Invalid):
            await connection.call(TRACED, *arguments)
        assert await client.put(b"k", b"v") == 3
