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
from cluster.registry.store import put
from cluster.registry.txn_log import FAILED, TxnLog
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
    with caplog.at_level(logging.WARNING, "cluster.registry.txn_log"), pytest.raises(ApiError) as raised:
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


async def test_a_charged_write_that_fails_is_logged_with_who_asked(bench: Any, make: Any, caplog: Any) -> None:
    ctx = replace(bench.ctx, user=UserInfo("jane", groups=("system:masters",)), audit_id="a-1", cause_id="c-1")
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}})
    await bench.create("pods", make.pod("a"))  # the quota is known from now on
    real = bench.store.txn

    async def unsure(compares: Any, then: Any, *more: Any, **options: Any) -> Any:
        if any(op[1].endswith(b"/resourcequotas/default/q") for op in then if op[0] == "put"):
            raise StoreError("outcome_unknown")
        return await real(compares, then, *more, **options)

    bench.store.txn = unsure
    with caplog.at_level(logging.WARNING, "cluster.registry"), pytest.raises(ApiError) as raised:
        await bench.registry.create(ctx, PODS, "default", make.pod("b"))
    assert raised.value.code == 504
    assert "user jane, request a-1, cause c-1" in caplog.text


async def test_a_full_store_and_a_client_that_gave_up_are_counted_and_not_logged(bench: Any, caplog: Any) -> None:
    counted = {r: FAILED.labels(r)._value.get() for r in ("TooManyRequests", "cancelled")}
    started = asyncio.Event()

    async def overloaded(*_: Any, **__: Any) -> None:
        raise StoreError("too_many_requests", "etcdserver: too many requests")

    async def stuck(*_: Any, **__: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING, "cluster.registry"):
        bench.store.txn = overloaded
        with pytest.raises(ApiError):
            await bench.create("configmaps", MAP)
        bench.store.txn = stuck
        bench.ctx = replace(bench.ctx, deadline=asyncio.get_running_loop().time() + 3600)
        writer = asyncio.create_task(bench.create("configmaps", MAP))
        await started.wait()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    assert caplog.records == []
    assert {r: FAILED.labels(r)._value.get() - n for r, n in counted.items()} == {"TooManyRequests": 1, "cancelled": 1}


def test_failures_are_logged_at_a_bounded_rate_and_the_rest_is_told(caplog: Any) -> None:
    said, ctx = TxnLog(), RequestContext(UserInfo("jane"))
    with caplog.at_level(logging.WARNING, "cluster.registry"):
        for _ in range(1000):
            said.failed([ctx], [put(b"/k", b"v")], 0.1, OSError("down"), 50.0)
        assert len(caplog.records) == 20
        said.done([ctx], [put(b"/k", b"v")], 0.1, 60.0)
        assert len(caplog.records) == 20, "neither slow nor failed"
        said.done([ctx] * 6, [put(b"/k", b"v")], 0.7, 60.0)
    assert len(caplog.records) == 21
    assert "was slow after 0.700 s: 1 ops, first /k" in caplog.text
    assert "and 2 more); 980 more before it were not logged" in caplog.text


async def test_a_lease_that_the_store_does_not_grant_ends_with_the_request(bench: Any) -> None:
    async def stuck(*_: Any) -> int:
        await asyncio.Event().wait()
        return 0

    bench.store.lease_grant = stuck
    ctx = replace(bench.ctx, deadline=asyncio.get_running_loop().time() + 0.05)
    about = {"kind": "Pod", "namespace": "default", "name": "p"}
    event = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "R", "message": "m", "type": "Normal"}
    async with asyncio.timeout(60):
        with pytest.raises(ApiError) as raised:
            await bench.registry.create(ctx, SCHEME.named("events"), "default", event)
    assert (raised.value.code, raised.value.reason) == (504, "Timeout")


async def test_quotas_are_read_and_counted_within_the_deadline(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}})
    await bench.create("pods", make.pod("a"))
    bench.registry = bench.another()
    seen: list[float | None] = []
    for name in ("txn", "range"):
        real = getattr(bench.store, name)

        def noting(*given: Any, _real: Any = real, **options: Any) -> Any:
            keys = str(given)
            if "quota" in keys:
                seen.append(options.get("deadline"))
            return _real(*given, **options)

        setattr(bench.store, name, noting)
    ctx = replace(bench.ctx, deadline=asyncio.get_running_loop().time() + 60)
    await bench.registry.create(ctx, PODS, "default", make.pod("b"))
    await bench.registry.recount_quota(ctx, "default", "q")
    assert len(seen) >= 4 and set(seen) == {ctx.deadline}
