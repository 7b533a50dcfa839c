"""The policy agent's loop: others get turns while it rebuilds, and what changes meanwhile is in force afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cluster.network import tables
from cluster.network.policy_agent import NAMESPACES, PODS, POLICIES, PolicyAgent
from cluster.network.policy_table import PolicyTable, PolicyTableConfig

Obj = dict[str, Any]
COUNT = 1000
SAME: Obj = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
BY_NAMESPACE: Obj = {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}]}


def obj(name: str, **more: Any) -> Obj:
    return {"metadata": {"name": name, "namespace": "default"}, **more}


def pod(number: int, ip: str = "") -> Obj:
    address = ip or f"10.244.{number // 250}.{number % 250 + 1}"
    return obj(f"p{number}", spec={"nodeName": "m2"}, status={"podIP": address, "phase": "Running"})


class Source:
    """One resource as an informer keeps it; the test changes it."""

    def __init__(self, objects: list[Obj]) -> None:
        self._objects = {o["metadata"]["name"]: o for o in objects}
        self._handlers: list[Callable[[Obj | None, Obj | None], None]] = []

    def add_handler(self, handler: Callable[[Obj | None, Obj | None], None]) -> None:
        self._handlers.append(handler)

    async def wait_synced(self) -> None:
        return

    def items(self) -> list[Obj]:
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Obj | None:
        return self._objects.get(name)

    def put(self, new: Obj) -> None:
        old = self._objects.get(new["metadata"]["name"])
        self._objects[new["metadata"]["name"]] = new
        for handler in self._handlers:
            handler(old, new)

    def remove(self, name: str) -> None:
        old = self._objects.pop(name)
        for handler in self._handlers:
            handler(old, None)


class Informers:
    def __init__(self, policy: Obj) -> None:
        namespace = {"metadata": {"name": "default", "labels": {"team": "a"}}}
        self.sources = {
            POLICIES: Source([obj("p", spec=policy)]),
            PODS: Source([pod(n) for n in range(COUNT)]),
            NAMESPACES: Source([namespace]),
        }

    def of(self, resource: str) -> Source:
        return self.sources[resource]


class Nft:
    """Keeps the transactions."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, commands: str) -> str:
        self.ran.append(commands)
        return ""

    def close(self) -> None:
        return

    async def has(self, number: int) -> None:
        async with asyncio.timeout(20):
            while len(self.ran) < number:
                await asyncio.sleep(0)


class NoWatch:
    def __init__(self, *_: Any) -> None: ...

    def own(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "NftWatch", NoWatch)


@contextlib.asynccontextmanager
async def running(informers: Any, nft: Any) -> AsyncIterator[None]:
    client: Any = None
    config = PolicyTableConfig("m1", "10.96.0.10")
    task = asyncio.create_task(PolicyAgent(config, client, informers=informers, nft=nft).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_others_get_turns_during_a_rebuild_and_what_changes_then_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = 0
    set_pod = PolicyTable.set_pod

    def counted(table: PolicyTable, one: Obj) -> None:
        nonlocal seen
        seen += 1
        set_pod(table, one)

    monkeypatch.setattr(PolicyTable, "set_pod", counted)
    informers, nft = Informers(SAME), Nft()
    async with running(informers, nft):
        async with asyncio.timeout(20):
            while seen == 0:
                await asyncio.sleep(0)
        assert seen < COUNT, "the whole rebuild was one turn of the loop"
        informers.of(PODS).put(pod(0, "10.244.99.1"))  # it was read before
        informers.of(PODS).put(pod(COUNT - 1, "10.244.99.2"))  # it will be, as it was when the rebuild began
        informers.of(PODS).remove("p1")
        await nft.has(2)
    full, delta = nft.ran
    assert full.count("10.244.") >= COUNT
    removed, _, added = delta.partition("add element")
    assert "10.244.99.1" in added and "10.244.99.2" in added
    for gone in (pod(0), pod(1), pod(COUNT - 1)):
        assert gone["status"]["podIP"] in removed


@pytest.mark.parametrize(("spec", "rebuilds"), [(SAME, False), (BY_NAMESPACE, True)])
async def test_a_namespaces_labels_matter_only_to_policies_that_select_by_them(spec: Obj, rebuilds: bool) -> None:
    informers, nft = Informers(spec), Nft()
    async with running(informers, nft):
        await nft.has(1)
        informers.of(NAMESPACES).put({"metadata": {"name": "default", "labels": {"team": "b"}}})
        await asyncio.sleep(0.1)
        informers.of(PODS).put(pod(0, "10.244.99.1"))
        await nft.has(2)
    assert ("delete table" in nft.ran[1]) is rebuilds
