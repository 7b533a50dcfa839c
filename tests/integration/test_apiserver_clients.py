"""Client libraries from PyPI and npm, unmodified, against the API server over the in-memory store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apiserver_harness import Pki, edge
from tests.support.client_process import needs_node, node_client, node_client_is_there, python_client
from tests.support.kubeconfig import write_kubeconfig


@pytest.mark.parametrize("which", ["official", "dynamic", "kr8s", "lightkube", "aio"])
async def test_a_client_library(which: str, tmp_path: Path) -> None:
    async with edge(Pki(tmp_path)) as server:
        await python_client(which, write_kubeconfig(server, tmp_path / "kubeconfig"))


@pytest.mark.skipif(not node_client_is_there(), reason=needs_node)
async def test_the_javascript_client(tmp_path: Path) -> None:
    async with edge(Pki(tmp_path)) as server:
        await node_client("objects", write_kubeconfig(server, tmp_path / "kubeconfig"))
