"""What a decision looked at, remembered within bounds, and told over HTTPS to administrators only."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.machine import pki
from cluster.machinery.mtls import server_context
from cluster.scheduler.config import DEFAULT
from cluster.scheduler.decide import Pending, place
from cluster.scheduler.endpoint import Endpoint
from cluster.scheduler.explain import Decisions, explained
from tests.unit.scheduler.shell import Cluster
from tests.unit.scheduler.test_profiles import columns, node, pending, pod

NOW = dt.datetime.now(dt.UTC)


class Time:
    """A clock that moves by `step` whenever it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_each_node_has_its_refusal_or_its_scores() -> None:
    cluster = columns(
        node("small", "1", "1Gi"), node("good", "8", "8Gi", disk="ssd"), node("slow", "8", "8Gi", disk="hdd")
    )
    wanted = pending(pod("web", "2", "4Gi", nodeSelector={"disk": "ssd"}))
    seen = {n["name"]: n for n in explained(cluster, wanted, DEFAULT, None).to_dict()["nodes"]}
    assert [r["plugin"] for r in seen["slow"]["refused"]] == ["NodeAffinity"]
    assert seen["small"]["refused"][0]["reason"] == "node(s) didn't match Pod's node affinity/selector"
    assert seen["good"]["refused"] == []
    assert seen["good"]["scores"]["NodeResourcesFit"] == 62.0, "(75 + 50) / 2"
    weights = dict(DEFAULT.weights)
    assert seen["good"]["total"] == sum(weights[name] * score for name, score in seen["good"]["scores"].items())


def test_all_that_is_short_on_a_node_is_named() -> None:
    wanted = pending(pod("web", "2", "4Gi"))
    (seen,) = explained(columns(node("small", "1", "1Gi")), wanted, DEFAULT, None).to_dict()["nodes"]
    assert [r["reason"] for r in seen["refused"]] == ["Insufficient cpu", "Insufficient memory"]


def remembered(decisions: Decisions, *pods: Pending, nodes: int = 2) -> None:
    cluster = columns(*(node(f"n{i}", "8", "8Gi") for i in range(nodes)))
    decisions.after(place(cluster, list(pods), witness=decisions), DEFAULT)


def test_a_past_decision_keeps_what_it_saw() -> None:
    decisions = Decisions(Time(), Time())
    remembered(decisions, pending(pod("a", "2", "1Gi")), pending(pod("b", "99", "1Gi")))
    (placed,) = [d.to_dict() for d in decisions.of("default", "a")]
    assert placed["node"] in ("n0", "n1")
    assert {n["total"] for n in placed["nodes"]} == {placed["nodes"][0]["total"]}, "before it was placed, all alike"
    (refused,) = [d.to_dict() for d in decisions.of("default", "b")]
    assert refused["message"] == "0/2 nodes are available: 2 Insufficient cpu."
    assert all(n["refused"] for n in refused["nodes"])


def test_equal_pods_share_one_look() -> None:
    decisions = Decisions(Time(), Time())
    remembered(decisions, *(pending(pod(f"p{i}", "1", "64Mi")) for i in range(10)))
    assert {d.to_dict()["alike"] for i in range(10) for d in decisions.of("default", f"p{i}")} == {10}


def test_a_burst_is_not_slowed_down_by_looking() -> None:
    """Every look takes 30 ms here: after a few of them only the outcome is kept."""
    decisions = Decisions(Time(step=0.03), Time())
    remembered(decisions, *(pending(pod(f"p{i}", f"{i + 1}m", "1Mi")) for i in range(50)))
    seen = [decisions.of("default", f"p{i}")[0].to_dict()["nodes"] is not None for i in range(50)]
    assert seen[0]
    assert 1 <= sum(seen) < 10
    assert all(decisions.of("default", f"p{i}")[0].node for i in range(50))


def test_memory_is_bounded() -> None:
    decisions = Decisions(Time(), Time(), max_bytes=20_000)
    for i in range(30):
        remembered(decisions, pending(pod(f"p{i}", f"{i + 1}m", "1Mi")), nodes=100)
    kept = [bool(decisions.of("default", f"p{i}")[0].to_dict()["nodes"]) for i in range(30)]
    assert kept == sorted(kept), "the oldest lost their details first"
    assert 2 <= sum(kept) <= 10
    assert decisions.of("default", "p0")[0].node, "the outcome is still known"


# ---- through the shell and over HTTPS


async def test_the_scheduler_tells_past_and_present(cluster: Cluster) -> None:
    await cluster.node("a", cpu="1")
    await cluster.pod("p1", cpu="2")
    await cluster.refused("p1")
    await cluster.node("b", cpu="4")
    assert await cluster.bound("p1") == "b"
    found = cluster.scheduler.explain("default", "p1", now=True)
    assert [d["node"] for d in found["decisions"]] == ["", "b"]
    assert found["decisions"][0]["nodes"][0]["refused"][0]["reason"] == "Insufficient cpu"
    room = {n["name"]: n.get("scores") for n in found["now"]["nodes"]}
    assert room["a"] is None
    assert (
        room["b"]["NodeResourcesBalancedAllocation"]
        == found["decisions"][1]["nodes"][1]["scores"]["NodeResourcesBalancedAllocation"]
    ), "the pod itself is not counted where it runs"


class Paths:
    def __init__(self, base: Path, ca: pki.KeyPair, name: str, subject: pki.Subject) -> None:
        pair = pki.issue(ca, subject, NOW)
        self.cert, self.key, self.ca = base / f"{name}.crt", base / f"{name}.key", base / "ca.crt"
        self.cert.write_bytes(pair.cert)
        self.key.write_bytes(pair.key)
        self.ca.write_bytes(ca.cert)

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.cert, self.key)
        return context


@pytest.fixture
async def served(cluster: Cluster, tmp_path: Path) -> AsyncIterator[tuple[str, Path, pki.KeyPair]]:
    ca = pki.new_ca("test", NOW)
    own = Paths(tmp_path, ca, "node", pki.Subject("n", (), ("localhost",), ("127.0.0.1",), server=True))
    tls = server_context(str(own.cert), str(own.key), str(own.ca))
    endpoint = Endpoint(cluster.scheduler, "127.0.0.1", 0, tls)
    await endpoint.start()
    yield f"https://127.0.0.1:{endpoint.port}", tmp_path, ca
    await endpoint.stop()


async def get(url: str, tls: ssl.SSLContext) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=tls) as response:
        return response.status, await response.json()


async def test_administrators_are_told_and_nobody_else(served: tuple[str, Path, pki.KeyPair], cluster: Cluster) -> None:
    url, base, ca = served
    await cluster.node("a")
    await cluster.pod("p1")
    await cluster.bound("p1")
    admin = Paths(base, ca, "admin", pki.ADMIN).client()
    status, body = await get(f"{url}/explain/default/p1", admin)
    assert (status, body["decisions"][0]["node"]) == (200, "a")
    status, body = await get(f"{url}/explain/default/nobody", admin)
    assert (status, body["reason"], body["message"]) == (404, "NotFound", 'pods "nobody" not found')
    assert (await get(f"{url}/explain/default/p1?now=yes", admin))[0] == 400
    kubelet = Paths(base, ca, "kubelet", pki.Subject("system:node:x", ("system:nodes",))).client()
    status, body = await get(f"{url}/explain/default/p1", kubelet)
    assert (status, body["reason"]) == (403, "Forbidden")
    stranger = ssl.create_default_context(cafile=str(base / "ca.crt"))
    with pytest.raises(aiohttp.ClientError):
        await get(f"{url}/explain/default/p1", stranger)
