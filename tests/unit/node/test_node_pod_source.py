"""Where a pod comes from is what the kubelet saw, not what the pod's annotation says."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.machinery.registry_client import RegistryClient
from cluster.node.config import KubeletConfig
from cluster.node.eviction_rank import is_critical
from cluster.node.hollow.parts import HollowNetwork
from cluster.node.hollow.runtime import HollowRuntime
from cluster.node.kubelet import Kubelet
from cluster.node.static_spec import SOURCE, is_static
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.memory_store import MemoryStore

Obj = dict[str, Any]


class Network(HollowNetwork):
    """A machine's, of which nothing is ready."""

    ready = False

    def close(self) -> None:
        return


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    registry = Registry(MemoryStore(), RegistryConfig(), clock=time.time, rng=random.Random(7))
    client = RegistryClient(registry, lambda: RequestContext(user=MASTERS, field_manager="test"))
    files: Obj = {name: str(tmp_path / name) for name in ("server_cert_file", "server_key_file", "client_ca_file")}
    for file in files.values():
        Path(file).touch()
    config = KubeletConfig(node_name="m1", node_ip="10.0.0.1", root_dir=str(tmp_path), **files)
    made = Kubelet(config, client, HollowRuntime(time.time), Network(lambda: "10.1.0.0/24"))  # type: ignore[arg-type]
    yield made
    await made._close()


def claiming(source: str | None) -> Obj:
    """A pod of the API that fits no machine: it is looked at, and not run."""
    notes = {"mine": "kept"} | ({} if source is None else {SOURCE: source})
    meta = {"name": "p", "namespace": "default", "uid": "u1", "annotations": notes}
    return {"metadata": meta, "spec": {"nodeSelector": {"no": "machine"}, "containers": [{"name": "c"}]}}


@pytest.mark.parametrize("source", ["file", "http", "", "anything"])
@pytest.mark.parametrize("at_first", [True, False])
async def test_a_pod_of_the_api_cannot_say_that_it_is_static(kubelet: Kubelet, source: str, at_first: bool) -> None:
    given, before = claiming(source), claiming(None)
    if at_first:
        kubelet._on_pod(None, given)
    else:
        kubelet._on_pod(None, before)
        kubelet._on_pod(before, given)
    (seen,) = kubelet.pods()
    assert seen["metadata"]["annotations"] == {"mine": "kept", SOURCE: "api"}
    assert not is_static(seen) and not is_critical(seen)
    assert given == claiming(source), "the informer's object is not the kubelet's to change"


async def test_pods_known_when_the_kubelet_starts_cannot_say_so_either(kubelet: Kubelet) -> None:
    kubelet._pods._objects["default", "p"] = claiming("file")
    assert not is_static(kubelet._own_pods()["u1"])
