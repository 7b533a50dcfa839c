"""Static pods: made from files, mirrored in the API, replaced with their files, through a real API server."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_world import IMAGE, NodeWorld, build_image, engine_answers, machine_namespace, remove_image

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not engine_answers(), reason="needs a container engine"),
]
NAME = "web-sk8t-node1"


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    build_image()
    yield
    remove_image()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    (tmp_path / "manifests").mkdir()
    with machine_namespace("sk8t-node-static"):
        async with NodeWorld(tmp_path, edge=True, static_pod_path=str(tmp_path / "manifests")) as w:
            yield w
            for file in (tmp_path / "manifests").iterdir():
                file.unlink()
            await w.until(lambda: _pods(w, 0), 30)
        assert w.leftovers() == []


def manifest(command: str) -> str:
    container = {"name": "c", "image": IMAGE, "command": ["sh", "-c", command]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec})


async def _pods(world: NodeWorld, count: int) -> list[dict[str, Any]] | bool:
    items = (await world.client.list("pods")).items
    return len(items) == count and (items or True)


async def test_a_file_is_a_pod_and_its_mirror_shows_it(world: NodeWorld) -> None:
    file = world.root / "manifests" / "web.yaml"
    file.write_text(manifest("sleep 1000"))
    await world.until(lambda: _pods(world, 1), 30)
    await world.ready(NAME, 30)
    mirror = await world.pod(NAME)
    container = mirror["status"]["containerStatuses"][0]["containerID"]
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] != mirror["metadata"]["uid"]
    assert mirror["metadata"]["ownerReferences"][0]["name"] == world.name

    # A mirror that is deleted comes back, and the container does not notice.
    await world.client.delete("pods", NAME, "default", grace_period_s=0)
    again = await world.until(lambda: _other(world, mirror["metadata"]["uid"]), 30)
    await world.ready(NAME, 30)
    assert (await world.pod(NAME))["status"]["containerStatuses"][0]["containerID"] == container

    # A kubelet that starts again keeps container and mirror.
    await world.stop()
    await world.start()
    kept = await world.ready(NAME, 30)
    assert kept["containerStatuses"][0]["containerID"] == container
    assert (await world.pod(NAME))["metadata"]["uid"] == again["metadata"]["uid"]

    # A changed file is another pod; a wrong one changes nothing.
    file.write_text("kind: [")
    file.with_name("new.tmp.yaml").write_text("kind: [")
    file.write_text(manifest("sleep 2000"))
    await world.until(lambda: _other(world, again["metadata"]["uid"]), 30)
    status = await world.ready(NAME, 30)
    assert status["containerStatuses"][0]["containerID"] != container

    file.unlink()
    await world.until(lambda: _pods(world, 0), 30)


async def _other(world: NodeWorld, uid: str) -> dict[str, Any] | None:
    return next((p for p in (await world.client.list("pods")).items if p["metadata"]["uid"] != uid), None)
