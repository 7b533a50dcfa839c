"""exec, attach, port-forward and logs by the official clients of Python and JavaScript, unmodified, through the API
server to a real kubelet and a container of the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.client_process import needs_node, node_client, node_client_is_there, python_client
from tests.support.kubeconfig import write_kubeconfig
from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace

pytestmark = NODE_TESTS

SERVE = "nc -ll -p 8080 -e echo served & echo ready; while read line; do echo got $line; done; sleep 1000"


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[Path]:
    """Of an API server with the machine on which pod `s` runs."""
    with machine_namespace("sk8t-node-streams"):
        async with NodeWorld(tmp_path, edge=True) as world:
            await world.run_pod("s", SERVE, container={"stdin": True})
            await world.ready("s")
            yield write_kubeconfig(world.server, tmp_path / "kubeconfig")
        assert world.leftovers() == []


async def test_the_python_client(kubeconfig: Path) -> None:
    await python_client("streams", kubeconfig)


@pytest.mark.skipif(not node_client_is_there(), reason=needs_node)
async def test_the_javascript_client(kubeconfig: Path) -> None:
    await node_client("streams", kubeconfig)
