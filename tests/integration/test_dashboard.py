"""The web page in Chromium, on an API server with a stand-in kubelet: what a user sees, hears and presses."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

from cluster.chaos.report import Happened, Report
from cluster.cli.chaos_publish import KEPT, publish
from cluster.cli.dashboard_proxy import DashboardProxy
from cluster.machinery.http_client import HttpConfig
from tests.support.apiserver_harness import Edge, Pki, edge, pod_on_kubelet
from tests.support.browser import CHROMIUM, accessibility_problems, browser_page
from tests.support.kubeconfig import write_kubeconfig
from tests.support.memory_store import MemoryStore
from tests.support.stand_in import listening

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Playwright leaves its driver's pipes to the collector
]

TOKENS = "s3cret,root,1,system:masters\njanes,jane,2\n"
PODS = "/api/v1/namespaces/default/pods"
VIEWS = ("machines", "workloads", "events", "logs", "health", "chaos")
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


@dataclass
class World:
    server: Edge
    log: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def pod(self, name: str, **spec: Any) -> dict[str, Any]:
        containers = [{"name": "c", "image": "x"}]
        spec = {"nodeName": "m1", "containers": containers, **spec}
        return await self.server.create(
            PODS, {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}
        )

    async def runs(self, pod: dict[str, Any]) -> None:
        container = {"name": "c", "ready": True, "started": True, "restartCount": 0, "image": "x", "imageID": "x"}
        container["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        status = {"phase": "Running", "containerStatuses": [container]}
        path = f"{PODS}/{pod['metadata']['name']}/status"
        got = await self.server.call("PUT", path, pod | {"status": status})
        assert got.status == 200, got.body

    async def sign_in(self, page: Page, token: str = "s3cret", view: str = "") -> None:
        await page.goto(f"{self.server.url}/dashboard/#{view}")
        await page.get_by_label("Bearer token").fill(token)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("navigation", name="Views")).to_be_visible()
        await expect(page.locator("#who")).not_to_be_empty()


@contextlib.asynccontextmanager
async def kubelet(pki: Pki, log: asyncio.Queue[str]) -> AsyncIterator[int]:
    """Follows a log with what is put into the queue; shows the metrics of a store's leader. Gives its port."""

    async def logs(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while line := await log.get():
            await response.write(f"{line}\n".encode())
        return response

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text="etcd_server_has_leader 1.0\netcd_server_is_leader 1.0\netcd_debugging_mvcc_current_revision 4711.0\n"
        )

    app = web.Application()
    app.router.add_get("/containerLogs/{ns}/{pod}/{c}", logs)
    app.router.add_get("/metrics/parts/state", metrics)
    async with listening(app, pki.server_context(), shutdown_timeout_s=0.1) as port:
        yield port


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    Path(made.path("tokens.csv")).write_text(TOKENS)
    return made


@pytest.fixture
async def world(pki: Pki) -> AsyncIterator[World]:
    log: asyncio.Queue[str] = asyncio.Queue()
    async with kubelet(pki, log) as port, edge(pki, token_auth_file=pki.path("tokens.csv")) as server:
        await pod_on_kubelet(server, port)
        yield World(server, log)


def pod_button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=f"default/{name}: ")


async def test_a_wrong_token_is_refused_and_the_right_one_shows_the_cluster_until_signed_out(world: World) -> None:
    async with browser_page() as page:
        await page.goto(f"{world.server.url}/dashboard")
        await page.get_by_label("Bearer token").fill("guess")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("does not accept that token")
        await world.sign_in(page)
        await expect(page.locator("#who")).to_have_text("root")
        await expect(pod_button(page, "p")).to_be_visible()
        await page.reload()
        await expect(pod_button(page, "p")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Bearer token")).to_be_focused()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_pods_come_run_and_go_without_reload_and_without_asking_again(world: World) -> None:
    async with browser_page() as page:
        await world.sign_in(page)
        await expect(page.locator("#connection")).to_have_text("Live")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        pod = await world.pod("web")
        await expect(pod_button(page, "web")).to_have_attribute("aria-label", "default/web: Pending, 0 of 1 ready")
        await expect(page.locator("#announcer")).to_contain_text("Pod default/web is new")
        await world.runs(pod)
        await expect(pod_button(page, "web")).to_have_attribute("aria-label", "default/web: Running, 1 of 1 ready")
        await expect(page.locator("#summary")).to_contain_text("1 of 2 pods running")
        await world.pod("homeless", nodeName=None)
        await expect(page.get_by_role("article", name="Waiting for a machine")).to_be_visible()
        await world.server.call("DELETE", f"{PODS}/web?gracePeriodSeconds=0")
        await expect(pod_button(page, "web")).to_have_count(0)
        assert asked == []


async def test_keys_alone_reach_every_pod_its_details_and_its_log(world: World) -> None:
    await world.pod("q")
    async with browser_page() as page:
        await world.sign_in(page)
        await expect(pod_button(page, "q")).to_be_visible()
        await page.get_by_role("searchbox").focus()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="m1", exact=True)).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(pod_button(page, "p")).to_be_focused()
        await page.keyboard.press("ArrowRight")
        await expect(pod_button(page, "q")).to_be_focused()
        await page.keyboard.press("Enter")
        details = page.get_by_role("complementary", name="Details")
        await expect(details).to_be_focused()
        await expect(details.get_by_role("heading", name="default/q")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(details).to_be_hidden()
        await expect(pod_button(page, "q")).to_be_focused()
        await page.keyboard.press("Home")
        await page.keyboard.press("Enter")
        await details.get_by_role("link", name="Logs of c").press("Enter")
        await expect(page.get_by_role("heading", name="Logs")).to_be_focused()
        for line in ("first <b>line</b>", "second"):
            await world.log.put(line)
            await expect(page.get_by_role("log")).to_contain_text(line)
        await world.log.put("")
        await expect(page.locator("#log-state")).to_have_text("The log of c has ended")


async def test_the_page_shows_a_user_what_his_role_shows_him_and_says_what_not(world: World) -> None:
    binding = {
        "kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    }  # fmt: skip
    await world.server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
    async with browser_page() as page:
        await world.sign_in(page, "janes")
        await expect(page.get_by_role("alert")).to_contain_text('User "jane" cannot list resource "pods"')
        await expect(page.locator("#connection")).to_have_text("Not allowed")
        await page.get_by_label("Namespace").fill("default")
        await page.keyboard.press("Enter")
        await expect(pod_button(page, "p")).to_be_visible()
        await expect(page.get_by_role("alert")).to_contain_text('cannot list resource "nodes"')
        await expect(page.get_by_role("alert")).not_to_contain_text('"pods"')


async def test_a_server_that_was_away_is_caught_up_with(pki: Pki) -> None:
    store = MemoryStore()
    settings: dict[str, Any] = {"token_auth_file": pki.path("tokens.csv"), "store": store}
    async with browser_page() as page:
        async with edge(pki, **settings) as server:
            await pod_on_kubelet(server, 1)
            port = server.server.port
            await World(server).sign_in(page)
            await expect(pod_button(page, "p")).to_be_visible()
        await expect(page.locator("#connection")).to_have_text("Reconnecting")
        async with edge(pki, secure_port=port, **settings) as server:
            await World(server).pod("meanwhile")
            await expect(pod_button(page, "meanwhile")).to_be_visible()
            await expect(page.locator("#connection")).to_have_text("Live")


async def test_health_reads_the_store_and_names_what_is_silent(world: World) -> None:
    label = {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    await world.server.call("PATCH", "/api/v1/nodes/m1", label, headers=merge)
    async with browser_page() as page:
        await world.sign_in(page, view="health")
        await expect(page.get_by_role("row", name=re.compile("m1 leader 4711"))).to_be_visible()
        await expect(page.get_by_role("row", name="etcd ok")).to_be_visible()
        await expect(page.get_by_role("row", name=re.compile("no scheduler leads"))).to_be_visible()


async def test_chaos_reports_appear_as_they_are_written(world: World) -> None:
    ca, cert, key = (world.server.pki.path(name) for name in ("ca.crt", "admin.crt", "admin.key"))
    access = HttpConfig(server=world.server.url, ca_file=ca, cert_file=cert, key_file=key)
    fault = Happened("kill-machine", ("m2",), began_s=3.0, ended_s=4.0, whole_s=9.5, api_pause_s=0.4)
    report = Report("soup", 7, 3, seconds=12.0, faults=[fault], requests={"api": {"answered": 99, "failed": 1}})
    async with browser_page() as page:
        await world.sign_in(page, view="chaos")
        await expect(page.locator("#verdict")).to_contain_text("No run is reported")
        for second in range(KEPT + 2):
            await publish(access, report, 1.8e9 + second)
        await expect(page.locator("#verdict")).to_contain_text("1 fault in 12 s: everything held")
        await expect(page.get_by_role("row", name=re.compile("kill-machine m2 1.0 s 5.5 s"))).to_be_visible()
        assert await page.locator("svg.timeline rect").count() == 2
        await expect(page.get_by_label("Run").get_by_role("option")).to_have_count(KEPT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_view_passes_the_accessibility_rules(world: World, scheme: str) -> None:
    await world.pod("q")
    async with browser_page(color_scheme=scheme) as page:
        await page.goto(f"{world.server.url}/dashboard/")
        await expect(page.get_by_label("Bearer token")).to_be_focused()
        assert await accessibility_problems(page) == []
        await world.sign_in(page)
        await pod_button(page, "q").click()
        await expect(page.get_by_role("complementary", name="Details")).to_be_visible()
        assert await accessibility_problems(page) == []
        for view in VIEWS[1:]:
            await page.get_by_role("link", name=view, exact=False).first.click()
            await expect(page.locator("#connection")).to_have_text("Live")
            assert await accessibility_problems(page) == [], view


async def test_through_sk8_dashboard_nobody_types_a_token(world: World) -> None:
    proxy = DashboardProxy(world.server.url, world.server.pki.client_context("admin"), [], 1000.0)
    async with proxy.serve() as port, browser_page() as page:
        await page.goto(proxy.address(port))
        await expect(pod_button(page, "p")).to_be_visible()
        assert proxy.token not in page.url
        await world.pod("web")
        await expect(pod_button(page, "web")).to_be_visible()


async def test_through_kubectl_proxy_the_user_is_kubectls(world: World, tmp_path: Path) -> None:
    config = write_kubeconfig(world.server, tmp_path / "config")
    proxy = await asyncio.create_subprocess_exec(
        "kubectl", f"--kubeconfig={config}", "proxy", "--port=0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert proxy.stdout is not None
        said = (await asyncio.wait_for(proxy.stdout.readline(), 60)).decode()
        port = int(said.rsplit(":", 1)[1])
        async with browser_page() as page:
            await page.goto(f"http://127.0.0.1:{port}/dashboard/")
            await expect(page.locator("#who")).to_have_text("admin")
            await world.pod("web")
            await expect(pod_button(page, "web")).to_be_visible()
            await expect(page.locator("#connection")).to_have_text("Live")
    finally:
        proxy.terminate()
        await proxy.wait()
