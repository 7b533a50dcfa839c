"""Stock kubectl as one user of a server under test, with a home of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.support.apiserver_harness import Edge
from tests.support.kubeconfig import write_kubeconfig

_VERSIONED = Path("/usr/lib/google-cloud-sdk/bin/kubectl.1.32")
KUBECTL = str(_VERSIONED) if _VERSIONED.exists() else shutil.which("kubectl.1.32") or shutil.which("kubectl")
NEEDS_KUBECTL = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
_WITHIN_S = 120


class Kubectl:
    """Speaks to `servers` in turn, by the certificate that their CA has signed for `user`."""

    def __init__(self, *servers: Edge, root: Path, user: str = "admin") -> None:
        self.kubeconfigs = [write_kubeconfig(s, root / f"{user}-{i}.kubeconfig", user) for i, s in enumerate(servers)]
        self._turns = itertools.cycle(map(str, self.kubeconfigs))
        self._env = {"PATH": os.environ["PATH"], "HOME": str(root)}

    async def start(self, *args: str, **env: str) -> asyncio.subprocess.Process:
        pipe, own = asyncio.subprocess.PIPE, {**self._env, "KUBECONFIG": next(self._turns), **env}
        return await asyncio.create_subprocess_exec(str(KUBECTL), *args, stdin=pipe, stdout=pipe, stderr=pipe, env=own)

    async def run(self, *args: str, stdin: str = "", **env: str) -> tuple[int, str, str]:
        """Its exit code and both its outputs."""
        process = await self.start(*args, **env)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), _WITHIN_S)
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, *args: str, stdin: str = "", fails: bool = False, **env: str) -> str:
        """All it says; `fails`: it has to."""
        code, out, err = await self.run(*args, stdin=stdin, **env)
        text = out + err
        assert (code != 0) == fails, text
        return text
