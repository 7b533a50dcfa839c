"""Client libraries from PyPI, unmodified, against the API server over the in-memory store."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver_harness import Edge, Pki, edge

SCRIPTS = Path(__file__).parents[1] / "support" / "client_scripts.py"


def kubeconfig(server: Edge, root: Path) -> Path:
    pki = server.pki
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "t", "cluster": {"server": server.url, "certificate-authority": pki.path("ca.crt")}}],
        "users": [
            {"name": "t", "user": {"client-certificate": pki.path("admin.crt"), "client-key": pki.path("admin.key")}}
        ],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "default"}}],
        "current-context": "t",
    }
    file = root / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize("which", ["official", "dynamic", "kr8s", "lightkube", "aio"])
async def test_a_client_library(which: str, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    async with edge(pki) as server:
        file = kubeconfig(server, tmp_path)
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPTS),
            which,
            str(file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 100)
        assert process.returncode == 0, output.decode()
