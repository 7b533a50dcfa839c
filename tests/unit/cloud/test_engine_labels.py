"""Two clusters may share one container engine: neither sees the other's containers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from aiohttp import web

from cluster.cloud.engine import LABEL, Engine
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import container_label


def test_the_label_names_the_cluster_unless_it_is_the_only_one() -> None:
    assert container_label("sk8", "m1") == "m1"
    assert container_label("sk8b", "m1") == "sk8b-m1"
    assert ClusterConfig.local().machine("m2").container_label == "m2"
    assert ClusterConfig.local(prefix="sk8b").machine("m2").container_label == "sk8b-m2"


def test_the_default_cluster_lists_all_but_another_clusters(tmp_path: Path) -> None:
    there = [{"Id": "1", "Labels": {LABEL: "m1"}}, {"Id": "2", "Labels": {LABEL: "sk8b-m1"}}]
    seen: list[str] = []

    async def containers(request: web.Request) -> web.Response:
        wanted = json.loads(request.query["filters"])["label"][0]
        seen.append(wanted)
        value = wanted.partition("=")[2]
        return web.json_response([c for c in there if not value or c["Labels"][LABEL] == value])

    async def run() -> tuple[list[str], list[str]]:
        app = web.Application()
        app.router.add_get("/containers/json", containers)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(tmp_path / "engine.sock")).start()
            engine = Engine(str(tmp_path / "engine.sock"))
            return await engine.containers(), await engine.containers("sk8b-m1")
        finally:
            await runner.cleanup()

    assert asyncio.run(run()) == (["1"], ["2"])
    assert seen == [LABEL, f"{LABEL}=sk8b-m1"]
