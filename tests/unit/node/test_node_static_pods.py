"""The loop over a directory's pods; a list stands for the set of workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.node.static_pods import StaticPods

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: c, image: i}]}
"""


class Pods:
    """Counts passes over the workers, of which there are none."""

    def __init__(self) -> None:
        self.passes = 0
        self.second = asyncio.Event()

    def workers(self) -> list[Any]:
        return []

    def add(self, pod: dict[str, Any], event: Any) -> None:
        assert pod["metadata"]["name"] == "web-m1"
        self.passes += 1
        if self.passes == 2:
            self.second.set()


async def test_a_change_while_the_directory_is_read_is_met_by_another_pass(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    loop, pods, told = asyncio.get_running_loop(), Pods(), threading.Event()

    def tell() -> None:
        static.forgotten()
        told.set()

    def clock() -> float:
        """Asked by the thread that reads the first manifest: some pod is forgotten just then."""
        if not told.is_set():
            loop.call_soon_threadsafe(tell)
            assert told.wait(60)
        return 1e9

    client: Any = None  # there is no Node yet, so no mirror is written
    statuses: Any = SimpleNamespace(mirrors={})
    static = StaticPods(str(tmp_path), "m1", client, statuses, node=lambda: None, period_s=3600, clock=clock)
    task = asyncio.create_task(static.run(pods))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(60):
            await pods.second.wait()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
