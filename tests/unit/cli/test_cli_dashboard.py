"""`sk8 dashboard`'s proxy: what it lets through, to whom, and as whom."""

from __future__ import annotations

import aiohttp
import pytest
import yarl

from cluster.cli.dashboard_proxy import DashboardProxy, allowed
from tests.support.apiserver_harness import Pki, edge

PODS = "/api/v1/namespaces/default/pods"


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/api/v1/pods", True),
        ("GET", f"{PODS}/p/log", True),
        ("GET", "/apis/apps/v1/deployments", True),
        ("GET", "/readyz", True),
        ("GET", "/api/v1/nodes/m1/proxy/metrics/parts/state", True),
        ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", True),
        ("GET", "/api/v1/nodes/m1/proxy/configz", False),
        ("GET", f"{PODS}/p/exec", False),
        ("GET", f"{PODS}/p/proxy/metrics", False),
        ("GET", "/api/v1/namespaces/kube-system/secrets", False),
        ("GET", "/api/v1/secrets", False),
        ("POST", PODS, False),
        ("DELETE", f"{PODS}/p", False),
        ("GET", "/openapi/v3", False),
        ("GET", "/dashboard/main.js", True),
        ("HEAD", "/dashboard", True),
        ("POST", "/dashboard/", False),
        ("GET", "/dashboard/../api/v1/secrets", False),
        ("GET", "/dashboard/..", False),
        ("POST", "/api/v1/nodes/m1/proxy/metrics", False),
        ("GET", "/api/v1/nodes/m1/proxy/metrics/../configz", False),
        ("GET", "/api/v1/nodes/m1/proxy/metrics/%2e%2E/configz", False),
        ("GET", f"{PODS}/a..b", True),
    ],
)
def test_only_what_the_page_needs_passes(method: str, path: str, passes: bool) -> None:
    assert allowed(method, path) is passes


@pytest.fixture
async def world(tmp_path):
    pki = Pki(tmp_path)
    now = [0.0]
    async with edge(pki) as server:
        impersonate = [("Impersonate-User", "jane")]
        proxy = DashboardProxy(server.url, pki.client_context("admin"), [], 100.0, lambda: now[0])
        as_jane = DashboardProxy(server.url, pki.client_context("admin"), impersonate, 100.0)
        async with proxy.serve() as port, as_jane.serve() as other, aiohttp.ClientSession() as session:

            async def ask(path: str, at: int = port, **headers: str) -> int:
                async with session.get(
                    yarl.URL(f"http://127.0.0.1:{at}{path}", encoded=True), headers=headers
                ) as answer:
                    await answer.read()
                    return answer.status

            yield ask, proxy, as_jane, other, now


async def test_the_page_is_there_for_anybody_and_the_rest_for_who_has_the_token(world):
    ask, proxy, _, _, now = world
    token = {"Authorization": f"Bearer {proxy.token}"}
    assert await ask("/dashboard/") == 200
    assert await ask("/dashboard/../api/v1/pods") == 403
    assert await ask("/api/v1/pods") == 401
    assert await ask("/api/v1/pods", Authorization="Bearer guess") == 401
    assert await ask("/api/v1/pods", **token) == 200
    assert await ask("/api/v1/secrets", **token) == 403
    assert await ask("/api/v1/namespaces/default/%73ecrets", **token) == 403
    now[0] = 101.0
    assert await ask("/api/v1/pods", **token) == 401


async def test_a_name_that_resolves_to_this_box_opens_nothing(world):
    ask, proxy, *_ = world
    assert await ask("/dashboard/", Host="evil.example") == 403
    assert await ask("/api/v1/pods", Host="evil.example", Authorization=f"Bearer {proxy.token}") == 403


async def test_as_another_user_it_shows_what_that_user_may_see(world):
    ask, _, as_jane, port, _ = world
    assert await ask("/api/v1/pods", port, Authorization=f"Bearer {as_jane.token}") == 403
