"""Client libraries of Kubernetes as processes of their own: how a script that uses one is run, and judged."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

_SUPPORT = Path(__file__).parent
_NODE_MODULES = _SUPPORT.parents[1] / "build/node-client/node_modules"

needs_node = "the JavaScript client is not installed (infra/bootstrap.sh --tests)"


def node_client_is_there() -> bool:
    return shutil.which("node") is not None and _NODE_MODULES.is_dir()


async def python_client(which: str, kubeconfig: Path) -> None:
    """A day of `client_scripts.py`."""
    await _run(kubeconfig, sys.executable, str(_SUPPORT / "client_scripts.py"), which, str(kubeconfig))


async def node_client(which: str, kubeconfig: Path) -> None:
    """A day of `node_client/day.mjs`; modules are looked for beside a script, so it is copied to where they are."""
    script = kubeconfig.parent / "day.mjs"
    script.write_bytes((_SUPPORT / "node_client/day.mjs").read_bytes())
    if not (kubeconfig.parent / "node_modules").exists():
        (kubeconfig.parent / "node_modules").symlink_to(_NODE_MODULES)
    await _run(kubeconfig, "node", str(script), which, str(kubeconfig))


async def _run(kubeconfig: Path, *command: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(kubeconfig.parent), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=env)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    except TimeoutError:
        process.kill()
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
