"""metrics.k8s.io through a stand-in kubelet that answers /stats/summary."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from cluster.machinery.kubelet_metrics import KubeletAccess, KubeletPodMetrics
from tests.support.apiserver_harness import Pki, edge
from tests.support.stand_in import listening

API = "/apis/metrics.k8s.io/v1beta1"
AT = "2026-01-01T00:00:00Z"


def used(cpu: int, memory: int) -> dict[str, Any]:
    return {"cpu": {"time": AT, "usageNanoCores": cpu}, "memory": {"time": AT, "workingSetBytes": memory}}


def summary(*pods: str) -> dict[str, Any]:
    listed = [
        {"podRef": {"namespace": "default", "name": name}, "containers": [{"name": "c", **used(5_000_000, 4096)}]}
        for name in pods
    ]
    return {"node": used(7_000_000, 1 << 20), "pods": listed}


@contextlib.asynccontextmanager
async def kubelet(pki: Pki, body: dict[str, Any]) -> AsyncIterator[tuple[int, list[str]]]:
    """Gives its port and what it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(body)

    app = web.Application()
    app.router.add_get("/stats/summary", answer)
    async with listening(app, pki.server_context()) as port:
        yield port, asked


@pytest.fixture
async def world(pki: Pki) -> AsyncIterator[tuple[Any, list[str]]]:
    """m1 answers, m2 is dead; each has one pod, and a third pod of m1 has no sample."""
    async with kubelet(pki, summary("one", "gone")) as (port, asked), edge(pki) as server:
        for name, at in (("m1", port), ("m2", 1)):
            made = await server.create("/api/v1/nodes", {"metadata": {"name": name, "labels": {"n": name}}})
            made["status"] = {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": at}},
            }
            assert (await server.call("PUT", f"/api/v1/nodes/{name}/status", made)).status == 200
        account = {"metadata": {"name": "default"}}
        await server.create("/api/v1/namespaces/default/serviceaccounts", account)
        for name, node in (("one", "m1"), ("fresh", "m1"), ("far", "m2")):
            spec = {"nodeName": node, "containers": [{"name": "c", "image": "x"}]}
            pod = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
            await server.create("/api/v1/namespaces/default/pods", pod)
        yield server, asked


async def test_a_pods_metrics_are_asked_of_its_kubelet_once(world: tuple[Any, list[str]]) -> None:
    server, asked = world
    got = await server.call("GET", f"{API}/namespaces/default/pods")
    assert got.json["kind"] == "PodMetricsList"
    (item,) = got.json["items"]
    assert item["metadata"]["name"] == "one" and item["metadata"]["labels"] == {"app": "one"}
    assert item["containers"] == [{"name": "c", "usage": {"cpu": "5000000n", "memory": "4Ki"}}]
    one = await server.call("GET", f"{API}/namespaces/default/pods/one")
    assert one.json == item
    assert asked == ["/stats/summary"], "one question answers all who ask within some seconds"
    assert (await server.call("GET", f"{API}/namespaces/default/pods/far")).status == 404
    none = await server.call("GET", f"{API}/pods?labelSelector=app%3Dfresh")
    assert none.json["items"] == []
    assert (await server.call("GET", f"{API}/pods?fieldSelector=spec.nodeName%3Dm1")).status == 400
    assert (await server.call("POST", f"{API}/namespaces/default/pods", item)).status == 405


async def test_a_node_that_does_not_answer_has_no_metrics(world: tuple[Any, list[str]]) -> None:
    server, _ = world
    got = await server.call("GET", f"{API}/nodes")
    (item,) = got.json["items"]
    assert (item["metadata"]["name"], item["usage"]) == ("m1", {"cpu": "7000000n", "memory": "1024Ki"})
    assert (await server.call("GET", f"{API}/nodes/m2")).status == 404
    assert (await server.call("GET", "/apis/metrics.k8s.io/v1beta1")).json["resources"][0]["kind"] == "NodeMetrics"


async def test_the_autoscalers_source(pki: Pki) -> None:
    async with kubelet(pki, summary("one")) as (port, asked):
        files = (pki.path(name) for name in ("ca.crt", "kubelet-client.crt", "kubelet-client.key"))
        source = KubeletPodMetrics(KubeletAccess(port, *files))
        try:
            pod = {"metadata": {"name": "one"}, "status": {"hostIP": "127.0.0.1"}}
            for _ in range(2):
                found = await source.of_pods("default", [pod, {"metadata": {"name": "unbound"}}])
                assert found["one"].usage == {"c": {"cpu": 5, "memory": 4096}}
            assert asked == ["/stats/summary"]
            assert await source.of_pods("other", [pod]) == {}
        finally:
            await source.close()
