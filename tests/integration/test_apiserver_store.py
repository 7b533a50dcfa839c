"""The API server over the real store (a group of one, on disk): freshness, restarts, leases, node identities."""

import asyncio
import contextlib

import orjson
import pytest

from raft.client import StoreClient
from raft.server import StateConfig, StateServer, create_member
from tests.support.apiserver_harness import Pki, edge
from tests.support.ports import free_ports

CM = "/api/v1/namespaces/default/configmaps"


def config_map(name: str) -> dict:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"k": "v"}}


class Member:
    """One State member that can be stopped and started again."""

    def __init__(self, directory) -> None:
        self.address = ("127.0.0.1", *free_ports(2))
        self.directory = directory
        create_member(directory, "one", 1, {1: self.address})
        self.task: asyncio.Task | None = None

    def start(self) -> None:
        host, peer, client = self.address
        config = StateConfig(
            dir=self.directory, host=host, peer_port=peer, client_port=client, metrics=None, tick_ms=10
        )
        self.task = asyncio.create_task(StateServer(config).run())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("m1", "system:node:m1", ("system:nodes",))
    return made


@pytest.fixture
async def member(tmp_path):
    one = Member(tmp_path / "state")
    one.start()
    yield one
    await one.stop()


@contextlib.asynccontextmanager
async def serving(pki: Pki, member: Member, **settings):
    store = StoreClient([("127.0.0.1", member.address[2])], timeout_s=3.0)
    try:
        async with edge(pki, store=store, **settings) as server:
            yield server
    finally:
        await store.close()


async def test_reads_see_acknowledged_writes_of_another_server(pki, member):
    async with serving(pki, member) as one, serving(pki, member, advertise_address="10.89.0.12") as two:
        for i in range(20):
            await one.create(CM, config_map(f"c{i}"))
            got = await two.call("GET", f"{CM}/c{i}")
            assert got.status == 200
            gone = await two.call("DELETE", f"{CM}/c{i}")
            assert gone.status == 200
            assert (await one.call("GET", f"{CM}/c{i}")).status == 404
        async with asyncio.timeout(15):
            while True:
                got = await one.call("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
                ips = (
                    [a["ip"] for s in got.json.get("subsets") or () for a in s["addresses"]]
                    if got.status == 200
                    else []
                )
                if ips == ["10.89.0.11", "10.89.0.12"]:
                    break
                await asyncio.sleep(0.1)
    async with serving(pki, member) as one, asyncio.timeout(15):
        while ips != ["10.89.0.11"]:
            got = await one.call("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
            ips = [a["ip"] for s in got.json.get("subsets") or () for a in s["addresses"]]
            await asyncio.sleep(0.1)


async def test_a_watch_survives_a_restart_of_the_store(pki, member):
    async with serving(pki, member) as server:
        start = (await server.call("GET", CM)).json["metadata"]["resourceVersion"]
        url = f"{server.url}{CM}?watch=1&resourceVersion={start}"
        async with server.session.get(url, ssl=pki.client_context("admin")) as stream:
            await server.create(CM, config_map("before"))
            first = orjson.loads(await asyncio.wait_for(stream.content.readline(), 5))
            await member.stop()
            failed = await server.call("GET", CM)
            assert failed.status in (503, 504), failed.body
            assert (await server.call("GET", f"{CM}/before?resourceVersion=0")).status == 200
            assert (await server.call("GET", "/readyz", cert="")).status == 500
            assert (await server.call("GET", "/livez", cert="")).status == 200
            member.start()
            async with asyncio.timeout(20):
                while (await server.call("POST", CM, config_map("after"))).status not in (201, 409):
                    await asyncio.sleep(0.1)
            second = orjson.loads(await asyncio.wait_for(stream.content.readline(), 10))
            names = [e["object"]["metadata"]["name"] for e in (first, second)]
            assert names == ["before", "after"]


async def test_node_identity_sees_its_own_pods(pki, member):
    async with serving(pki, member) as server:
        pods = "/api/v1/pods?fieldSelector=spec.nodeName%3D"
        assert (await server.call("GET", pods + "m1", cert="m1")).status == 200
        assert (await server.call("GET", "/api/v1/services", cert="m1")).status == 200
        lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "m1"}, "spec": {}}
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        got = await server.call("POST", path, lease, cert="m1")
        assert got.status == 201, got.body
        assert (await server.call("GET", "/api/v1/secrets", cert="m1")).status == 403
        assert (await server.call("DELETE", "/api/v1/nodes/m2", cert="m1")).status in (403, 404)
