"""The client in process: what it wrote itself comes back from its watch without being decoded again."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from cluster.machinery.client import Binding, Obj, clone
from cluster.machinery.registry_client import _ECHOES, Echoes
from cluster.registry.types import Stored, WatchEvent
from tests.support.controller_world import World

POD = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of what was decoded from what a watch told."""
    seen: list[bytes] = []
    of = Echoes.of

    def watched(self: Echoes, resource: str, event: WatchEvent) -> Obj:
        obj, told = of(self, resource, event), event.stored
        assert obj == orjson.loads(told.raw)  # whatever it was spared, it is what is stored
        if obj is told._obj:
            seen.append(told.key)
        return obj

    monkeypatch.setattr(Echoes, "of", watched)
    return seen


async def told(world: World, name: str, revision: str) -> Obj:
    """The pod as the informer has it once it has come so far."""
    pods = world.informers.of("pods")
    async with asyncio.timeout(60):
        while (pod := pods.get("default", name)) is None or pod["metadata"]["resourceVersion"] != revision:
            await asyncio.sleep(0)
    return pod


async def test_own_writes_are_not_decoded_again(decoded: list[bytes]) -> None:
    async with World() as w:
        w.informers.of("pods")
        await w.informers.wait_synced()
        await w.namespace()
        await w.node("m1")
        made = await w.client.create("pods", POD, "default")
        await told(w, "a", made["metadata"]["resourceVersion"])
        changed = clone(made)
        changed["metadata"]["labels"] = {"x": "y"}
        await told(w, "a", (await w.client.update("pods", changed))["metadata"]["resourceVersion"])
        assert await w.client.bind([Binding("default", "a", made["metadata"]["uid"], "m1")]) == [None]
        (bound,) = await w.items("pods")
        seen = await told(w, "a", bound["metadata"]["resourceVersion"])
        assert seen["spec"]["nodeName"] == "m1" and seen == bound
        patched = await w.client.patch("pods", "a", {"status": {"phase": "Running"}}, "default", subresource="status")
        await told(w, "a", patched["metadata"]["resourceVersion"])
        assert [key for key in decoded if b"/pods/" in key] == []


async def test_what_others_write_is_decoded(decoded: list[bytes]) -> None:
    async with World() as w, World(store=w.store) as other:
        w.informers.of("pods")
        await w.informers.wait_synced()
        await w.namespace()
        made = await other.client.create("pods", POD, "default")
        await told(w, "a", made["metadata"]["resourceVersion"])
        assert decoded == [b"/registry/core/pods/default/a"]


async def test_an_answer_of_another_kind_is_no_echo(decoded: list[bytes]) -> None:
    """pods/binding answers with a Status, deployments/scale with a Scale: neither is the object that was written."""
    async with World() as w:
        deployments = w.informers.of("deployments.apps")
        await w.informers.wait_synced()
        await w.namespace()
        template: Obj = {"metadata": {"labels": {"app": "d"}}, "spec": POD["spec"]}
        spec: Obj = {"selector": {"matchLabels": {"app": "d"}}, "template": template}
        await w.client.create("deployments.apps", {"metadata": {"name": "d"}, "spec": spec}, "default")
        await w.client.patch("deployments.apps", "d", {"spec": {"replicas": 5}}, "default", subresource="scale")
        async with asyncio.timeout(60):
            while (seen := deployments.get("default", "d")) is None or seen["spec"]["replicas"] != 5:
                await asyncio.sleep(0)
        assert seen["kind"] == "Deployment"


def stored(name: str, revision: int = 7) -> Stored:
    return Stored(name.encode(), b'{"metadata":{}}', revision)


def news(of: Stored) -> WatchEvent:
    return WatchEvent("MODIFIED", of)


def test_only_what_is_watched_is_kept_and_not_too_much_of_it() -> None:
    echoes = Echoes()
    echoes.expect("pods")
    echoes.written("events", stored("e"))
    assert not echoes._written
    objects: list[Any] = [echoes.written("pods", stored(f"p{i}")) for i in range(_ECHOES + 5)]
    assert len(echoes._written) == _ECHOES
    fresh = stored("p0")
    assert echoes.of("pods", news(fresh)) is fresh.obj  # it was dropped
    assert echoes.of("pods", news(stored("p9"))) is objects[9]
    assert echoes.of("pods", news(stored("p9"))) is not objects[9]  # once


def test_what_is_still_to_come_is_kept_and_what_has_come_is_not() -> None:
    echoes = Echoes()
    echoes.expect("pods")
    bound = echoes.written("pods", stored("p", 12))
    made = stored("p", 10)
    assert echoes.of("pods", news(made)) is made.obj
    echoes.written("pods", stored("q", 9))  # its event came before its answer
    assert echoes.of("pods", news(stored("p", 12))) is bound
    assert not echoes._written


def test_what_left_a_selector_is_told_of_as_it_was() -> None:
    echoes = Echoes()
    echoes.expect("pods")
    after = echoes.written("pods", stored("p", 12))
    before = stored("p", 12)
    assert echoes.of("pods", WatchEvent("DELETED", before)) is before.obj is not after
    assert not echoes._written
