"""``python -m raft --config FILE``: one member, outside of any supervisor. IO.

FILE is JSON with StateConfig's fields; ``peer_tls`` and ``client_tls`` are {"cert", "key", "ca"}. A directory that
holds no member is made one only if FILE says how: ``"create": {"cluster_id", "member_id", "members": {id: [host, peer
port, client port]}}``, or ``"join"`` with the same. SK8_FAULTS sets fault hooks (raft.faults). SIGTERM and
SIGINT stop it gracefully; exit code 1: it could not go on, 2: FILE is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from raft.config import StateConfig, TlsFiles
from raft.errors import StoreError
from raft.faults import Faults, FaultSpecError
from raft.server import StateServer, create_member, join_member
from raft.storage.errors import StorageError


def read_config(path: Path) -> StateConfig:
    """Raises ValueError, OSError, StoreError, StorageError."""
    raw: dict[str, Any] = json.loads(path.read_text())
    create, join = raw.pop("create", None), raw.pop("join", None)
    raw["dir"] = Path(raw["dir"])
    if raw.get("raftos_key") is not None:
        raw["raftos_key"] = Path(raw["raftos_key"])
    if raw.get("metrics") is not None:
        raw["metrics"] = tuple(raw["metrics"])
    for name in ("peer_tls", "client_tls"):
        if raw.get(name) is not None:
            raw[name] = TlsFiles(**{kind: Path(file) for kind, file in raw[name].items()})
    config = StateConfig(**raw, faults=Faults.parse(os.environ.get("SK8_FAULTS", "")))
    for make, how in ((create_member, create), (join_member, join)):
        if how is not None and not (config.dir / "identity.json").exists():
            members = {int(member): tuple(address) for member, address in how["members"].items()}
            make(config.dir, how["cluster_id"], how["member_id"], members)
    return config


async def serve(server: StateServer) -> None:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if task is not None:
            loop.add_signal_handler(number, task.cancel)
    try:
        await server.run()
    except asyncio.CancelledError:
        logging.getLogger("raft").info("stopped")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m raft", description="Run one State member.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON; see raft/__main__.py")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        server = StateServer(read_config(arguments.config))
    except (StoreError, StorageError, FaultSpecError, OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments.config}: {error}", file=sys.stderr)
        return 2
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    try:
        run(serve(server))
    except (StoreError, StorageError, OSError) as error:
        logging.getLogger("raft").error("member stops: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
