"""A machine whose kubelet runs pods on a containerd of its own, through CRI: in the machine's network namespace, with
its own directories and socket, so that neither the box's containerd nor its images are touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.node.cni import PodNetwork
from cluster.node.cri import cni_server
from cluster.node.cri.client import CriClient
from cluster.node.cri.cni_server import CniServer
from cluster.node.cri.runtime import CriRuntime
from cluster.node.runtime import Runtime, RuntimeFailure
from tests.support.node_world import IMAGE, NodeWorld, sh

PAUSE = "sk8/pause:1"
_CONFIG = """version = 2
root = "{root}/data"
state = "{root}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni/bin"
conf_dir = "{root}/cni/conf"
"""


def containerd_is_there() -> bool:
    return all(shutil.which(name) for name in ("containerd", "ctr", "runc"))


@contextlib.contextmanager
def containerd() -> Iterator[Path]:
    """A private containerd with the test's images, started in this thread's network namespace; yields its directory."""
    root = Path(tempfile.mkdtemp(prefix="sk8t-containerd-", dir="/var/lib"))
    (root / "config.toml").write_text(_CONFIG.format(root=root, pause=PAUSE))
    cni_server.install(str(root / "cni" / "conf"), str(root / "cni" / "bin"), str(root / "cni.sock"))
    with (root / "log").open("wb") as log:
        command = ["containerd", "--config", str(root / "config.toml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        socket = root / "containerd.sock"
        deadline = time.monotonic() + 60
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        sh("docker", "save", "-o", str(root / "images.tar"), PAUSE, IMAGE)
        sh("ctr", "--address", str(socket), "-n", "k8s.io", "images", "import", str(root / "images.tar"))
        yield root
    finally:
        asyncio.run(_remove_all(str(root / "containerd.sock")))
        process.terminate()
        process.wait(30)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if str(root) in line:
                sh("umount", "-l", line.split()[4], check=False)
        shutil.rmtree(root, ignore_errors=True)


async def _remove_all(socket: str) -> None:
    """What a failed test has left: its shims would outlive the containerd."""
    client = CriClient(socket)
    try:
        for box in (await client.call("RuntimeService/ListPodSandbox")).items:
            with contextlib.suppress(RuntimeFailure):
                await client.call("RuntimeService/StopPodSandbox", pod_sandbox_id=box.id)
                await client.call("RuntimeService/RemovePodSandbox", pod_sandbox_id=box.id)
    finally:
        await client.close()


class CriWorld(NodeWorld):
    """`async with CriWorld(tmp_path, root) as w`: `root` is the containerd's directory."""

    def __init__(self, path: Path, root: Path, **settings: Any) -> None:
        super().__init__(path, **settings)
        self.containerd = root

    def engine(self) -> Runtime:
        return CriRuntime(self.name, str(self.containerd / "containerd.sock"))

    def cni(self, network: PodNetwork) -> CniServer | None:
        return CniServer(str(self.containerd / "cni.sock"), network)

    async def left(self) -> list[str]:
        """Sandboxes and containers that the runtime still has."""
        runtime = CriRuntime(self.name, str(self.containerd / "containerd.sock"))
        try:
            return [info.id for info in await runtime.containers()]
        finally:
            await runtime.close()
