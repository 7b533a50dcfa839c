"""A registry on an in-memory store, with a clock that the test moves."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import DeleteOptions, RegistryConfig, Stored
from tests.support.memory_store import MemoryStore

Object = dict[str, Any]


@dataclass
class Bench:
    """Short hands for tests; `now` is the registry's clock."""

    now: float = 1_700_000_000.0
    store: MemoryStore = field(init=False)
    registry: Registry = field(init=False)
    ctx: RequestContext = field(default_factory=lambda: RequestContext(MASTERS, field_manager="test"))

    def __post_init__(self) -> None:
        self.store = MemoryStore(lambda: self.now)
        self.registry = self.another()

    def another(self, **options: Any) -> Registry:
        config = options.pop("config", RegistryConfig(encryption_keys={"k1": b"k" * 32}))
        return Registry(self.store, config, clock=lambda: self.now, rng=random.Random(7), **options)

    async def create(self, resource: str, obj: Object, namespace: str = "default", **options: Any) -> Stored:
        return await self.registry.create(self.ctx, SCHEME.named(resource), namespace, obj, **options)

    async def get(self, resource: str, name: str, namespace: str = "default", **options: Any) -> Stored:
        return await self.registry.get(self.ctx, SCHEME.named(resource), namespace, name, **options)

    async def delete(self, resource: str, name: str, namespace: str = "default", **options: Any) -> Stored:
        return await self.registry.delete(self.ctx, SCHEME.named(resource), namespace, name, DeleteOptions(**options))

    def keys(self, prefix: str) -> list[str]:
        return [k.decode() for k in self.store._keys if k.startswith(prefix.encode())]


@pytest.fixture
async def bench() -> Bench:
    b = Bench()
    for name in ("default", "kube-system"):
        await b.create("namespaces", {"metadata": {"name": name}}, "")
        await b.create("serviceaccounts", {"metadata": {"name": "default"}}, name)
    return b


def pod(name: str = "p", **spec: Any) -> Object:
    containers = [{"name": "c", "image": "i:1"}]
    return {"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"containers": containers, **spec}}


def deployment(name: str = "d", replicas: int = 2, image: str = "i:1") -> Object:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def service(name: str = "s", **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "a"}, **spec}}


@pytest.fixture
def make() -> Any:
    """The builders, without importing a conftest."""

    class Make:
        pod = staticmethod(pod)
        deployment = staticmethod(deployment)
        service = staticmethod(service)
        bench = Bench

    return Make
