"""The informer: order, relists, read-your-writes, resuming inside a revision; on the registry over a memory store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from cluster.api.errors import ApiError, expired, service_unavailable
from cluster.machinery.client import Obj, ObjectList, WatchEvent, clone
from cluster.machinery.informer import Informer
from tests.support.controller_world import World


def obj(name: str, revision: int, uid: str = "u", **spec: Any) -> Obj:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(revision)},
        "spec": spec,
    }


class Scripted:
    """Lists and watches answer from a script; a step that is an exception is raised; `asked`: where watches began."""

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists = lists
        self.watches = watches
        self.asked: list[str] = []

    async def list(self, *args: Any, **kwargs: Any) -> ObjectList:
        step = self.lists.pop(0)
        if isinstance(step, ApiError):
            raise step
        assert isinstance(step, ObjectList)
        return step

    async def watch(self, *args: Any, resource_version: str, **kwargs: Any) -> AsyncIterator[WatchEvent]:
        self.asked.append(resource_version)
        if not self.watches:
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, ApiError):
                raise step
            yield step


async def run_script(client: Scripted, informer: Informer) -> None:
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(30):
        while client.watches or client.lists or len(client.asked) == 0:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def make(client: Any) -> tuple[Informer, list[tuple[int | None, int | None]]]:
    informer = Informer(client, "pods", rng=random.Random(3))
    seen: list[tuple[int | None, int | None]] = []

    def revision(o: Obj | None) -> int | None:
        return None if o is None else int(o["metadata"]["resourceVersion"])

    informer.add_handler(lambda old, new: seen.append((revision(old), revision(new))))
    return informer, seen


async def test_events_arrive_in_order_and_deletes_remove() -> None:
    client = Scripted(
        [ObjectList([obj("a", 5)], "7")],
        [[WatchEvent("MODIFIED", obj("a", 8)), WatchEvent("ADDED", obj("b", 9)), WatchEvent("DELETED", obj("a", 10))]],
    )
    informer, seen = make(client)
    await run_script(client, informer)
    assert seen == [(None, 5), (5, 8), (None, 9), (8, None)]
    assert [o["metadata"]["name"] for o in informer.items()] == ["b"]


async def test_an_expired_watch_relists_and_delivers_the_difference() -> None:
    client = Scripted(
        [ObjectList([obj("a", 5), obj("b", 6)], "7"), ObjectList([obj("b", 6), obj("c", 20)], "21")],
        [[expired("too old")], []],
    )
    informer, seen = make(client)
    await run_script(client, informer)
    assert seen == [(None, 5), (None, 6), (5, None), (None, 20)]


async def test_a_broken_watch_resumes_without_a_list_after_the_last_complete_revision() -> None:
    client = Scripted(
        [ObjectList([], "7")],
        [
            [WatchEvent("ADDED", obj("a", 8)), WatchEvent("ADDED", obj("b", 9)), service_unavailable("gone")],
            [WatchEvent("ADDED", obj("b", 9)), WatchEvent("ADDED", obj("c", 9)), WatchEvent("BOOKMARK", obj("", 12))],
            [],
        ],
    )
    informer, seen = make(client)
    await run_script(client, informer)
    assert client.asked[:3] == ["7", "8", "12"]
    assert seen == [(None, 8), (None, 9), (None, 9)], "b and c were written by one transaction at 9; both are seen once"


async def test_a_list_that_fails_is_tried_again() -> None:
    client = Scripted([service_unavailable("no"), ObjectList([obj("a", 5)], "7")], [[]])
    informer, seen = make(client)
    await run_script(client, informer)
    assert seen == [(None, 5)]


def test_observed_writes_are_seen_at_once_and_never_resurrect() -> None:
    informer, seen = make(None)
    informer.apply(WatchEvent("ADDED", obj("a", 5)))
    informer.observe(obj("a", 8))
    informer.apply(WatchEvent("MODIFIED", obj("a", 7)))
    informer.apply(WatchEvent("MODIFIED", obj("a", 8)))
    assert seen == [(None, 5), (5, 8)]
    informer.apply(WatchEvent("DELETED", obj("a", 9)))
    informer.observe(obj("a", 8))
    assert seen[2:] == [(8, None)] and informer.items() == []
    informer.observe(obj("a", 12, uid="new"))
    informer.apply(WatchEvent("DELETED", obj("a", 11)))
    assert len(informer.items()) == 1, "the delete of an older one of the same name"


async def test_one_can_wait_until_a_revision_was_reached() -> None:
    informer, _ = make(None)
    informer.apply(WatchEvent("ADDED", obj("a", 5)))
    await asyncio.wait_for(informer.wait_reached(5), 30)
    waiting = [asyncio.create_task(informer.wait_reached(revision)) for revision in (7, 7, 9)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    informer.apply(WatchEvent("ADDED", obj("b", 6)))
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting[1:])
    informer.apply(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "8"}}))
    await asyncio.wait_for(waiting[1], 30)
    assert not waiting[2].done()
    informer.apply(WatchEvent("ADDED", obj("c", 9)))
    await asyncio.wait_for(waiting[2], 30)


def test_indexes_follow() -> None:
    informer, _ = make(None)
    informer.add_index("node", lambda o: [o["spec"]["node"]] if o["spec"].get("node") else [])
    informer.apply(WatchEvent("ADDED", obj("a", 1)))
    informer.apply(WatchEvent("ADDED", obj("b", 2, node="n1")))
    informer.apply(WatchEvent("MODIFIED", obj("a", 3, node="n1")))
    assert {o["metadata"]["name"] for o in informer.by_index("node", "n1")} == {"a", "b"}
    informer.apply(WatchEvent("DELETED", obj("b", 4)))
    assert [o["metadata"]["name"] for o in informer.by_index("node", "n1")] == ["a"]
    assert informer.by_index("node", "n2") == []


def test_an_object_has_every_value_of_its_index_and_is_found_as_it_now_is() -> None:
    informer = Informer(Scripted([], []), "pods")  # type: ignore[arg-type]
    informer.add_index("port", lambda o: o["spec"]["ports"])
    informer.apply(WatchEvent("ADDED", obj("a", 1, ports=["80", "443", "80"])))
    informer.apply(WatchEvent("MODIFIED", obj("a", 2, ports=["80", "443", "80"], new=True)))
    assert [o["spec"]["new"] for value in ("80", "443") for o in informer.by_index("port", value)] == [True, True]
    informer.apply(WatchEvent("MODIFIED", obj("a", 3, ports=["22"])))
    assert [informer.by_index("port", value) for value in ("80", "443")] == [[], []]
    assert [o["metadata"]["name"] for o in informer.by_index("port", "22")] == ["a"]
    informer.apply(WatchEvent("MODIFIED", obj("a", 4, ports=[])))
    informer.apply(WatchEvent("DELETED", obj("a", 5, ports=[])))
    assert informer.by_index("port", "22") == []


def test_a_failing_handler_does_not_blind_the_others(caplog: Any) -> None:
    informer, seen = make(None)

    def bad(old: Obj | None, new: Obj | None) -> None:
        raise RuntimeError("a bug")

    informer._handlers.insert(0, bad)
    informer.apply(WatchEvent("ADDED", obj("a", 1)))
    assert seen == [(None, 1)] and "a bug" in caplog.text


async def test_the_cache_equals_the_registry_after_random_writes() -> None:
    rng = random.Random(11)
    async with World() as w:
        await w.namespace()
        informer = w.informers.of("configmaps")
        task = asyncio.create_task(informer.run())
        await informer.wait_synced()
        for i in range(150):
            name = f"m{rng.randrange(8)}"
            current = {o["metadata"]["name"]: o for o in await w.items("configmaps")}
            if name not in current:
                meta = {"name": name, "namespace": "default"}
                made = await w.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
                informer.observe(made)
            elif rng.random() < 0.4:
                await w.client.delete("configmaps", name, "default")
            else:
                made = await w.client.update("configmaps", {**clone(current[name]), "data": {"i": str(i)}})
                if rng.random() < 0.5:
                    informer.observe(made)
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert {o["metadata"]["name"]: o for o in informer.items()} == {
            o["metadata"]["name"]: o for o in await w.items("configmaps")
        }
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
