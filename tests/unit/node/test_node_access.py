"""Whom a kubelet lets in: its own, and those of whom the API server says so."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.node.access import ALLOWED_S, AT_ONCE, DENIED_S, MOST_WAITING, TOKEN_S, Access, Asked, asked_for
from cluster.node.config import KubeletConfig
from cluster.node.server import KubeletServer
from tests.support.apiserver_harness import Edge, Pki, edge

SCRAPER = "system:serviceaccount:monitoring:prometheus"
RBAC = "rbac.authorization.k8s.io"
METRICS = Asked("get", ("metrics",))
TOKEN = {"Authorization": "Bearer good"}


class Reviews:
    """An API server that knows the token `good`, and allows what is in `rules`: (user, verb, subresource)."""

    def __init__(self) -> None:
        self.rules = {(SCRAPER, "get", "metrics")}
        self.asked: list[Any] = []
        self.down = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def create(self, resource: str, obj: dict[str, Any]) -> dict[str, Any]:
        if self.down:
            raise errors.service_unavailable("no leader")
        spec = obj["spec"]
        if obj["kind"] == "TokenReview":
            self.asked.append(spec["token"])
            await self.answers.wait()
            good = spec["token"] == "good"
            user = {"username": SCRAPER, "uid": "1", "groups": ["system:authenticated"], "extra": {"a": ["b"]}}
            return {"status": {"authenticated": good, "user": user if good else {}}}
        assert obj["kind"] == "SubjectAccessReview" and obj["apiVersion"] == "authorization.k8s.io/v1"
        what = spec["resourceAttributes"]
        assert (what["resource"], what["name"]) == ("nodes", "m1") and "system:authenticated" in spec["groups"]
        question = (spec["user"], what["verb"], what["subresource"])
        self.asked.append(question)
        return {"status": {"allowed": question in self.rules}}


class World:
    def __init__(self) -> None:
        self.reviews = Reviews()
        self.now = 1000.0
        self.access = Access(self.reviews, "m1", ("sk8:apiservers",), clock=lambda: self.now)  # type: ignore[arg-type]

    async def code(self, asked: Asked, headers: dict[str, str] | None = None, certificate: Any = None) -> int:
        try:
            await self.access.require(certificate, headers or {}, asked)
        except ApiError as err:
            return err.code
        return 200


def certificate(name: str, *groups: str) -> dict[str, Any]:
    subject = [(("commonName", name),), *((("organizationName", g),) for g in groups)]
    return {"subject": tuple(subject)}


@pytest.mark.parametrize(
    ("method", "route", "verb", "subresources"),
    [
        ("GET", "/metrics", "get", ("metrics",)),
        ("GET", "/metrics/parts/{part}", "get", ("metrics",)),
        ("GET", "/stats/summary", "get", ("stats",)),
        ("GET", "/logs", "get", ("log",)),
        ("GET", "/pods/", "get", ("pods", "proxy")),
        ("GET", "/configz", "get", ("configz", "proxy")),
        ("GET", "/healthz/ping", "get", ("healthz", "proxy")),
        ("GET", "/containerLogs/{ns}/{pod}/{container}", "get", ("proxy",)),
        ("GET", "/exec/{ns}/{pod}/{container}", "create", ("proxy",)),
        ("GET", "/portForward/{ns}/{pod}", "create", ("proxy",)),
        ("GET", "/attach/{ns}/{pod}/{container}", "create", ("proxy",)),
        ("DELETE", "", "delete", ("proxy",)),
    ],
)
def test_what_a_page_is_to_the_authorizer(method: str, route: str, verb: str, subresources: tuple[str, ...]) -> None:
    assert asked_for(method, route) == Asked(verb, subresources)


async def test_api_servers_are_let_in_while_the_api_is_down() -> None:
    world = World()
    world.reviews.down = True
    assert await world.code(METRICS, certificate=certificate("kube-apiserver", "sk8:apiservers")) == 200
    assert await world.code(METRICS, TOKEN) == 503
    assert world.reviews.asked == []


async def test_nobody_is_401() -> None:
    world = World()
    for value in ("", "Basic Zm9v", "Bearer ", "Bearer bad", "Bearer b\udcff", "Bearer b\xe4d"):
        assert await world.code(METRICS, {"Authorization": value}) == 401
    assert await world.code(METRICS) == 401
    assert world.reviews.asked == ["bad"]


async def test_roles_say_what_a_token_is_good_for() -> None:
    world = World()
    assert await world.code(METRICS, TOKEN) == 200
    assert await world.code(Asked("get", ("proxy",)), TOKEN) == 403
    assert await world.code(Asked("create", ("proxy",)), TOKEN) == 403
    world.reviews.rules.add((SCRAPER, "get", "pods"))
    assert await world.code(Asked("get", ("pods", "proxy")), TOKEN) == 200
    with pytest.raises(
        ApiError, match=r"user=.*prometheus, verb=get, resource=nodes, subresource\(s\)=\[configz proxy\]"
    ):
        await world.access.require(None, TOKEN, Asked("get", ("configz", "proxy")))


async def test_a_certificate_is_a_user_too() -> None:
    world = World()
    assert await world.code(METRICS, certificate=certificate(SCRAPER)) == 200
    assert await world.code(METRICS, certificate=certificate("somebody", "dev")) == 403
    assert await world.code(METRICS, TOKEN, certificate("somebody", "dev")) == 403, "the certificate counts"


async def test_answers_are_kept_for_their_time() -> None:
    world = World()
    for _ in range(3):
        assert await world.code(METRICS, TOKEN) == 200
        assert await world.code(Asked("get", ("log",)), TOKEN) == 403
    assert world.reviews.asked == ["good", (SCRAPER, "get", "metrics"), (SCRAPER, "get", "log")]
    world.reviews.rules = {(SCRAPER, "get", "log")}
    world.now += DENIED_S + 1
    assert await world.code(Asked("get", ("log",)), TOKEN) == 200
    assert await world.code(METRICS, TOKEN) == 200, "still from before"
    world.now += max(ALLOWED_S, TOKEN_S)
    assert await world.code(METRICS, TOKEN) == 403


async def test_made_up_tokens_push_out_no_good_answer() -> None:
    world = World()
    assert await world.code(METRICS, TOKEN) == 200
    for number in range(1500):
        assert await world.code(METRICS, {"Authorization": f"Bearer {number}"}) == 401
    del world.reviews.asked[:]
    assert await world.code(METRICS, TOKEN) == 200 and world.reviews.asked == []
    assert await world.code(METRICS, {"Authorization": "Bearer 1499"}) == 401 and world.reviews.asked == []


async def test_few_reviews_are_under_way_at_a_time() -> None:
    """Nor is the same asked again by those who waited for their turn."""
    world = World()
    world.reviews.answers.clear()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(world.code(METRICS, {"Authorization": f"Bearer {token}"}))
            for token in (*range(AT_ONCE), *["same"] * 20, "good")
        ]
        for _ in range(10):  # turns of the loop, in which each goes as far as it can
            await asyncio.sleep(0)
        assert world.reviews.asked == [str(n) for n in range(AT_ONCE)]
        world.reviews.answers.set()
    assert [t.result() for t in tasks] == [401] * (AT_ONCE + 20) + [200]
    assert 1 <= world.reviews.asked.count("same") <= AT_ONCE


async def test_who_would_wait_too_long_is_turned_away() -> None:
    world = World()
    world.reviews.answers.clear()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(world.code(METRICS, {"Authorization": f"Bearer {n}"})) for n in range(MOST_WAITING + 5)
        ]
        for _ in range(10):  # turns of the loop, in which each goes as far as it can
            await asyncio.sleep(0)
        world.reviews.answers.set()
    assert sorted(t.result() for t in tasks) == [401] * MOST_WAITING + [503] * 5


async def test_a_real_api_server_judges(tmp_path: Path) -> None:
    """With the kubelet's own identity: the Node authorizer lets it ask."""
    pki = Pki(tmp_path)
    pki.issue("m1", "system:node:m1", ("system:nodes",))
    async with edge(pki) as api, HttpClient(http_config(api, "m1")) as own, HttpClient(http_config(api)) as admin:
        await admin.create("namespaces", {"metadata": {"name": "monitoring"}})
        await admin.create("serviceaccounts", {"metadata": {"name": "prometheus"}}, "monitoring")
        rules = [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]
        await admin.create(f"clusterroles.{RBAC}", {"metadata": {"name": "scraper"}, "rules": rules})
        role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "scraper"}
        who = [{"kind": "ServiceAccount", "namespace": "monitoring", "name": "prometheus"}]
        binding = {"metadata": {"name": "scraper"}, "roleRef": role, "subjects": who}
        await admin.create(f"clusterrolebindings.{RBAC}", binding)
        asked = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
        made = await admin.create("serviceaccounts", asked, "monitoring", subresource="token", name="prometheus")
        token = {"Authorization": f"Bearer {made['status']['token']}"}
        world = World()
        world.access = Access(own, "m1", ("sk8:apiservers",), clock=lambda: 0.0)
        assert await world.code(METRICS, token) == 200
        assert await world.code(Asked("get", ("log",)), token) == 403
        assert await world.code(METRICS, {"Authorization": "Bearer x.y.z"}) == 401
        assert await world.code(METRICS, certificate=certificate("somebody")) == 403


def http_config(api: Edge, certificate: str = "admin") -> HttpConfig:
    files = {"cert_file": api.pki.path(f"{certificate}.crt"), "key_file": api.pki.path(f"{certificate}.key")}
    return HttpConfig(server=api.url, ca_file=api.pki.path("ca.crt"), **files)


class Healthy:
    """As much of a kubelet as a server asks for its health."""

    def health(self) -> dict[str, object]:
        return {"ready": True}


@asynccontextmanager
async def server(pki: Pki, access: Access) -> AsyncIterator[str]:
    files = {"server_cert_file": "node.crt", "server_key_file": "node.key", "client_ca_file": "ca.crt"}
    config = KubeletConfig(
        "m1", "127.0.0.1", "/nowhere", **{k: pki.path(v) for k, v in files.items()}, port=0, healthz_port=0
    )
    unused: Any = None
    running = KubeletServer(config, unused, Healthy(), unused, access, clock=time.time)  # type: ignore[arg-type]
    await running.start()
    try:
        yield f"https://127.0.0.1:{running.port}"
    finally:
        await running.stop()


def client(pki: Pki, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki.path("ca.crt"))
    context.check_hostname = False
    if name:
        context.load_cert_chain(pki.path(f"{name}.crt"), pki.path(f"{name}.key"))
    return context


async def test_the_server_asks_for_each_page(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    pki.issue("node", "system:node:m1", ("system:nodes",), server=True)
    pki.issue("apiserver", "kube-apiserver", ("sk8:apiservers",))
    world = World()
    async with server(pki, world.access) as url, aiohttp.ClientSession() as session:

        async def get(path: str, certificate: str = "", **headers: str) -> int:
            async with session.get(url + path, ssl=client(pki, certificate), headers=headers) as response:
                return response.status

        assert await get("/healthz") == 401
        assert await get("/healthz", "apiserver") == 200
        assert await get("/healthz", "node") == 403
        assert await get("/metrics", **TOKEN) == 200
        assert await get("/healthz", **TOKEN) == 403
        assert await get("/nowhere", **TOKEN) == 403
        assert await get("/nowhere", "apiserver") == 404
        for command in ("ls", "a" * 200_000):  # a command is in the URL
            assert await get(f"/exec/ns/pod/c?command={command}", **TOKEN) == 403
    assert (SCRAPER, "create", "proxy") in world.reviews.asked
