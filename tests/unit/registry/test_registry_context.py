"""The request context on its way down: the deadline bounds the store, the cause is stored and handed on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import orjson
import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.codec import _HEAD, Codec
from cluster.registry.context import RequestContext, UserInfo
from cluster.registry.types import Binding, DeleteOptions
from tests.support.memory_store import StoreError

MAPS, PODS = SCHEME.named("configmaps"), SCHEME.named("pods")
MAP = {"metadata": {"name": "m"}, "data": {"k": "v"}}


async def test_past_its_deadline_a_request_changes_nothing_and_is_504(bench: Any) -> None:
    late = replace(bench.ctx, deadline=asyncio.get_running_loop().time() - 1)
    await bench.create("configmaps", MAP)
    before = bench.store.revision
    calls = (
        lambda: bench.registry.create(late, MAPS, "default", {"metadata": {"name": "n"}}),
        lambda: bench.registry.modify(late, MAPS, "default", "m", lambda o: {**o, "data": {}}),
        lambda: bench.registry.delete(late, MAPS, "default", "m", DeleteOptions()),
        lambda: bench.registry.get(late, MAPS, "default", "m"),
        lambda: bench.registry.list(late, MAPS, "default"),
    )
    for call in calls:
        with pytest.raises(ApiError) as raised:
            await call()
        assert (raised.value.code, raised.value.reason) == (504, "Timeout")
    assert bench.store.revision == before


async def test_an_unknown_outcome_is_504_and_logged_with_who_asked(bench: Any, caplog: Any) -> None:
    ctx = replace(bench.ctx, user=UserInfo("jane", groups=("system:masters",)), audit_id="a-1", cause_id="c-1")
    bench.store.fail = "outcome_unknown"
    with caplog.at_level(logging.WARNING, "cluster.registry.core"), pytest.raises(ApiError) as raised:
        await bench.registry.create(ctx, MAPS, "default", MAP)
    assert raised.value.code == 504
    assert "user jane, request a-1, cause c-1" in caplog.text
    assert "/registry/core/configmaps/default/m" in caplog.text


async def test_a_write_stores_its_cause_and_a_bind_keeps_the_pods(bench: Any, make: Any) -> None:
    def caused(by: str) -> RequestContext:
        return replace(bench.ctx, cause_id=by)

    await bench.registry.create(caused("a-1"), PODS, "default", make.pod())
    assert (await bench.get("pods", "p")).cause == "a-1"
    assert await bench.registry.bind(caused(""), [Binding("default", "p", "", "n1")]) == [None]
    assert (await bench.get("pods", "p")).cause == "a-1"
    status = lambda o: {**o, "status": {"phase": "Running"}}  # noqa: E731
    await bench.registry.modify(caused("k-1"), PODS, "default", "p", status, subresource="status")
    assert (await bench.get("pods", "p")).cause == "k-1"
    await bench.registry.delete(caused("a-2"), PODS, "default", "p", DeleteOptions(grace_period_s=5))
    stored = await bench.get("pods", "p")
    assert "deletionTimestamp" in stored.obj["metadata"] and stored.cause == "a-2"
    assert "a-2" not in stored.raw.decode()


async def test_an_encrypted_value_names_its_cause_but_nothing_else(bench: Any) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"k": "hidden"}}
    await bench.registry.create(replace(bench.ctx, cause_id="a-9"), SCHEME.named("secrets"), "default", secret)
    assert (await bench.get("secrets", "s")).cause == "a-9"
    value = bench.store._live[b"/registry/core/secrets/default/s"].value
    assert b"a-9" in value and b"hidden" not in value


def test_values_of_the_first_format_are_still_read() -> None:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "uid": "u-1"}}
    value, _, _ = Codec().encode(b"/k", obj)
    assert value[_HEAD.size] == 0  # the length of an absent cause: all that the second format added
    first = b"\x01" + value[1 : _HEAD.size] + value[_HEAD.size + 1 :]
    stored = Codec().decode(b"/k", first, 7)
    assert (stored.uid, stored.cause, stored.obj["metadata"]["name"]) == ("u-1", "", "m")
    assert orjson.loads(stored.raw)["metadata"]["resourceVersion"] == "7"


async def test_too_many_requests_is_429(bench: Any) -> None:
    async def overloaded(*_: Any, **__: Any) -> None:
        raise StoreError("too_many_requests", "etcdserver: too many requests")

    bench.store.txn = overloaded
    with pytest.raises(ApiError) as raised:
        await bench.create("configmaps", MAP)
    assert (raised.value.code, raised.value.reason, raised.value.retry_after_s) == (429, "TooManyRequests", 1)
