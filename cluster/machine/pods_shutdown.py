"""Before a machine stops: let its kubelet end the pods in order.

IO: the kubelet's unix socket (cluster/node/node_shutdown.py says what is spoken). A machine without a kubelet that
listens stops at once; one whose kubelet does not answer in time stops all the same.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

log = logging.getLogger(__name__)
SOCKET = "shutdown.sock"
LONGEST_S = 94.0  # 90 s of grace periods, and two each in which the node and the pods' ends are reported


async def end_pods(kubelet_dir: Path, timeout_s: float = LONGEST_S) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(kubelet_dir / SOCKET)
            try:
                await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as err:
        log.info("the pods are not ended in order: %s", err or f"the kubelet took more than {timeout_s:g} s")
