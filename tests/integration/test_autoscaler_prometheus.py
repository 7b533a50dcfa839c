"""The autoscaler scales by what Debian's Prometheus has scraped: external metrics, pods' own, counters as rates."""

from __future__ import annotations

import asyncio
import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.api.errors import ApiError
from cluster.controllers.env import Controller, Env
from cluster.controllers.hpa import HpaController
from cluster.controllers.hpa_prometheus import PrometheusMetrics
from cluster.machinery.prometheus import Prometheus
from tests.support.controller_world import World
from tests.support.node_world import engine_answers
from tests.support.ports import free_ports
from tests.unit.controllers.test_hpa_world import replicas, start

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "prom/prometheus:v2.42.0"
WITHIN_S = 60.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not engine_answers(), reason="needs a container engine"),
]


class Exporter(http.server.BaseHTTPRequestHandler):
    """Two queues, a counter that grows by 20 a second, and a gauge of two pods."""

    began = time.monotonic()

    def do_GET(self) -> None:
        grown = 20 * (time.monotonic() - self.began)
        text = (
            'queue_length{queue="work"} 30\nqueue_length{queue="work",shard="2"} 20\nqueue_length{queue="idle"} 1\n'
            f'hits_total{{namespace="default",ingress="front"}} {grown:.0f}\n'
            'busy{namespace="default",pod="p0"} 1.5\nbusy{namespace="default",pod="p1"} 0.5\n'
            'busy{namespace="team",pod="p0"} 99\n'
        )
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    subprocess.run(["python3", str(ROOT / "infra" / "images" / "build.py"), IMAGE], check=True, timeout=300)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    directory, port = tmp_path_factory.mktemp("prometheus"), free_ports(1)[0]
    directory.chmod(0o755)
    target = f"127.0.0.1:{server.server_port}"
    (directory / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: shop, honor_labels: true, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    flags = [
        f"--web.listen-address=127.0.0.1:{port}",
        "--config.file=/m/prometheus.yml",
        "--storage.tsdb.path=/tmp/tsdb",
    ]
    command = ["docker", "run", "-d", "--rm", "--network=host", "-v", f"{directory}:/m:ro"]
    made = subprocess.run(
        [*command, "--entrypoint=/usr/bin/prometheus", IMAGE, *flags], check=True, capture_output=True, text=True
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["docker", "rm", "-f", made.stdout.strip()], capture_output=True, check=False)
        server.shutdown()
        server.server_close()


async def _unresolved(namespace: str, name: str) -> str:
    raise AssertionError(f"{namespace}/{name} is no Service here")


async def _when_scraped(metrics: PrometheusMetrics, name: str) -> int:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return await metrics.external("default", {"name": name})
        except ApiError as err:
            assert time.monotonic() < deadline, err.message
            await asyncio.sleep(0.2)


async def test_what_prometheus_scraped_is_read(url: str) -> None:
    prometheus = Prometheus(url, _unresolved)
    try:
        metrics = PrometheusMetrics(prometheus)
        assert await _when_scraped(metrics, "queue_length") == 51_000
        work = {"name": "queue_length", "selector": {"matchLabels": {"queue": "work"}}}
        assert await metrics.external("default", work) == 50_000
        assert {n: s.value for n, s in (await metrics.of_pods("default", {"name": "busy"})).items()} == {
            "p0": 1500,
            "p1": 500,
        }
        await _when_scraped(metrics, "hits")  # a rate needs two scrapes
        ref = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"}
        deadline = time.monotonic() + WITHIN_S
        while not 0 < await metrics.of_object("default", {"name": "hits"}, ref) < 40_000:
            assert time.monotonic() < deadline, "the counter's rate is not read"
            await asyncio.sleep(0.5)
        with pytest.raises(ApiError, match="has no series"):
            await metrics.external("default", {"name": "nothing"})
    finally:
        await prometheus.close()


async def test_a_deployment_is_scaled_by_it(url: str) -> None:
    """50 pieces of work wait, and a replica is to have ten of them: five replicas."""
    prometheus = Prometheus(url, _unresolved)

    def controller(env: Env) -> Controller:
        return HpaController(replace(env, outside=replace(env.outside, series=prometheus)))

    selector = {"matchLabels": {"queue": "work"}}
    target = {"type": "AverageValue", "averageValue": "10"}
    metric = {
        "type": "External",
        "external": {"metric": {"name": "queue_length", "selector": selector}, "target": target},
    }
    try:
        await _when_scraped(PrometheusMetrics(prometheus), "queue_length")
        async with World(controller) as w:
            await start(w, metrics=[metric])
            for _ in range(3):
                await w.tick(15)
            assert await replicas(w) == 5
    finally:
        await prometheus.close()


async def test_a_prometheus_that_is_not_there_is_said() -> None:
    prometheus = Prometheus(f"http://127.0.0.1:{free_ports(1)[0]}", _unresolved)
    try:
        with pytest.raises(ApiError, match="prometheus at http://") as failed:
            await prometheus.query("up")
        assert failed.value.code == 503
    finally:
        await prometheus.close()
