"""Images from a registry that asks for a password: Debian's docker-registry on loopback, the real engine."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.node.runtime import RuntimeFailure
from tests.support.node_world import IMAGE, NODE_TESTS, NodeWorld, machine_namespace, sh

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
        async with NodeWorld(tmp_path, registry_mirrors={"registry.example": [HOST]}) as w:
            yield w
        assert w.leftovers() == []


async def test_a_pull_secret_opens_the_registry(world: NodeWorld) -> None:
    await world.run_pod("closed", container={"image": PUSHED})
    status = await world.status("closed", lambda s: "BackOff" in str(s.get("containerStatuses")), 30)
    waiting = status["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff" and "no basic auth credentials" in waiting["message"]
    await _login(world)
    await world.run_pod("open", container={"image": PUSHED}, imagePullSecrets=[{"name": "login"}])
    await world.ready("open", 30)
    await world.told("open", "Pulled")


async def _login(world: NodeWorld) -> None:
    data = {".dockerconfigjson": base64.b64encode(json.dumps(LOGIN).encode()).decode()}
    secret = {"metadata": {"name": "login"}, "type": "kubernetes.io/dockerconfigjson", "data": data}
    await world.client.create("secrets", {"apiVersion": "v1", "kind": "Secret", **secret}, "default")


async def test_pull_policies_and_a_mirror(world: NodeWorld) -> None:
    """The registry of the image's name does not exist: only its mirror has it."""
    await _login(world)
    image = "registry.example/team/app:1"
    secrets = [{"name": "login"}]
    await world.run_pod("never", container={"image": image, "imagePullPolicy": "Never"})
    status = await world.status("never", lambda s: "NeverPull" in str(s.get("containerStatuses")), 30)
    waiting = status["containerStatuses"][0]["state"]["waiting"]
    assert waiting["message"] == f'Container image "{image}" is not present with pull policy of Never'
    try:
        await world.run_pod("mirrored", container={"image": image}, imagePullSecrets=secrets)
        await world.ready("mirrored", 30)
        await world.run_pod("present", container={"image": image, "imagePullPolicy": "IfNotPresent"})
        await world.ready("present", 30)
        await world.told("present", "Started")  # the last of them
        assert "Pulling" not in await world.reasons("present")
        policy = {"image": image, "imagePullPolicy": "Always"}
        await world.run_pod("always", container=policy, imagePullSecrets=secrets)
        await world.ready("always", 30)
        await world.told("always", "Pulling")
        await world.ready("never", 30)  # tried again, it finds the image now
    finally:
        sh("docker", "rmi", "-f", image, check=False)


async def test_an_image_goes_with_all_its_names_unless_a_container_has_it(world: NodeWorld) -> None:
    names = ("sk8t-node/gone:1", "sk8t-node/gone:2")
    runtime = world.kubelet._runtime
    sh("sh", "-c", f"tar -c -f - -C {world.root} pki/ca.crt | docker import - {names[0]}")
    sh("docker", "tag", *names)
    found = next(i for i in await runtime.images() if names[0] in i.names)
    assert set(names) <= set(found.names) and found.id not in await runtime.images_in_use()
    container = sh("docker", "create", "--network=none", names[0], "/none").strip()
    assert found.id in await runtime.images_in_use()
    with pytest.raises(RuntimeFailure):
        await runtime.remove_image(found.id)
    sh("docker", "rm", container)
    await runtime.remove_image(found.id)
    await runtime.remove_image(found.id)
    assert found.id not in [i.id for i in await runtime.images()]
