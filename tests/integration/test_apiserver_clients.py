"""Client libraries from PyPI, unmodified, against the API server over the in-memory store."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from apiserver_harness import Pki, edge
from kubeconfig import write_kubeconfig

SCRIPTS = Path(__file__).parents[1] / "support" / "client_scripts.py"


@pytest.mark.parametrize("which", ["official", "dynamic", "kr8s", "lightkube", "aio"])
async def test_a_client_library(which: str, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    async with edge(pki) as server:
        file = write_kubeconfig(server, tmp_path / "kubeconfig")
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
