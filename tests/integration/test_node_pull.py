"""Images from a registry that asks for a password: Debian's docker-registry on loopback, the real engine."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from node_world import IMAGE, NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = [*NODE_TESTS, pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")]
HOST = "127.0.0.1:5998"
PUSHED = f"{HOST}/team/app:1"
LOGIN = {"auths": {HOST: {"username": "bob", "password": "geheim"}}}
HTPASSWD = "bob:$2y$04$Y1Eg0c7QKNJ2mo1KrbnSuOeW4dbyIzAz/T8hqUObaN734Qv.0a4NO"
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {root}/data}}}}
http: {{addr: "{host}"}}
auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, node_image: None) -> Iterator[None]:
    """With one image in it, which the engine no longer has."""
    root = tmp_path_factory.mktemp("registry")
    (root / "htpasswd").write_text(HTPASSWD + "\n")
    (root / "config.yml").write_text(CONFIG.format(root=root, host=HOST))
    (root / "config.json").write_text(json.dumps({"auths": {HOST: {"auth": base64.b64encode(b"bob:geheim").decode()}}}))
    with (
        (root / "log").open("wb") as log,
        subprocess.Popen(["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log) as server,
    ):
        try:
            sh("curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", f"http://{HOST}/v2/")
            sh("docker", "tag", IMAGE, PUSHED)
            sh("docker", "--config", str(root), "push", PUSHED)
            sh("docker", "rmi", PUSHED)
            yield
        finally:
            server.terminate()
            sh("docker", "rmi", "-f", PUSHED, check=False)


@pytest.fixture
async def world(tmp_path: Path, registry: None) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-pull"):
        async with NodeWorld(tmp_path) as w:
            yield w
        assert w.leftovers() == []


async def test_a_pull_secret_opens_the_registry(world: NodeWorld) -> None:
    await world.run_pod("closed", container={"image": PUSHED})
    status = await world.status("closed", lambda s: "BackOff" in str(s.get("containerStatuses")), 30)
    waiting = status["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff" and "no basic auth credentials" in waiting["message"]
    data = {".dockerconfigjson": base64.b64encode(json.dumps(LOGIN).encode()).decode()}
    secret = {"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "data": data}
    await world.client.create("secrets", {"apiVersion": "v1", "kind": "Secret", **secret}, "default")
    await world.run_pod("open", container={"image": PUSHED}, imagePullSecrets=[{"name": "login"}])
    await world.ready("open", 30)
    assert "Pulled" in await world.reasons("open")
