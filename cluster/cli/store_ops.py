"""`sk8 store status|hash|compact|alarms|dump-wal`: looking at the store and keeping it in order. IO."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from cluster.cli.output import CommandError, Output, table
from cluster.cli.store_access import clear_errors, mebibytes, store_client
from cluster.cli.store_members import name_of
from cluster.machine.config import ClusterConfig
from raft.client import StoreClient
from raft.errors import Compacted, StoreError
from raft.wal_dump import dump

Endpoint = tuple[str, int]


async def status(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    async with store_client(config) as store:
        said = await asyncio.gather(*(_status(store, endpoint) for endpoint in config.state_client_endpoints))
    rows = [
        {"name": name_of(config, host), "endpoint": f"{host}:{port}"} | one
        for (host, port), one in zip(config.state_client_endpoints, said, strict=True)
    ]
    if args.output == "json":
        out.result(json.dumps(rows, indent=2))
    else:
        header = ("name", "endpoint", "id", "db size", "in use", "role", "term", "index", "applied", "revision", "keys")
        out.result(table(header, [_status_row(row) for row in rows]))
        for row in rows:
            if row["error"]:
                out.warn(f"{row['name']}: {row['error']}.")
        for member, kind in next((row["alarms"] for row in rows if not row["error"]), []):
            out.warn(f"alarm {kind} of member {member}.", "sk8 store alarms says what to do")
    if not any(row.get("leader") for row in rows):
        raise CommandError("the store has no leader", "a majority of the members must run: sk8 machine list")


async def _status(store: StoreClient, endpoint: Endpoint) -> dict[str, Any]:
    try:
        return {"error": "", **await store.status(endpoint)}
    except StoreError as error:
        return {"error": str(error)}


def _status_row(row: dict[str, Any]) -> list[str]:
    if row["error"]:
        return [row["name"], row["endpoint"], "", "", "", "silent", "", "", "", "", ""]
    role = "learner" if row["learner"] else row["role"]
    sizes = [mebibytes(row["db_size_bytes"]), mebibytes(row["db_in_use_bytes"])]
    numbers = [str(row[key]) for key in ("term", "commit", "applied", "revision", "keys")]
    return [row["name"], row["endpoint"], str(row["member_id"]), *sizes, role, *numbers]


async def compare_hashes(args: argparse.Namespace, config: ClusterConfig, out: Output) -> int:
    """Exit code 1 when two members differ, or one does not answer."""
    async with store_client(config, timeout_s=120) as store:
        revision = args.revision or await store.read_index()
        said = await asyncio.gather(*(_hash(store, e, revision) for e in config.state_client_endpoints))
    rows: list[dict[str, Any]] = [
        {"name": name_of(config, host), "endpoint": f"{host}:{port}", "revision": revision} | one
        for (host, port), one in zip(config.state_client_endpoints, said, strict=True)
    ]
    if args.output == "json":
        out.result(json.dumps(rows, indent=2))
    else:
        header = ("name", "endpoint", "revision", "hash")
        out.result(table(header, [[str(row[c]) for c in header] for row in rows]))
    failed = [row["name"] for row in rows if row["error"]]
    for row in rows:
        if row["error"]:
            out.warn(f"{row['name']}: {row['error']}.")
    if len({row["hash"] for row in rows if not row["error"]}) > 1:
        raise CommandError(
            f"the members differ at revision {revision}",
            "sk8 store alarms; the member that differs from the majority is replaced by sk8 member remove",
        )
    return 1 if failed else 0


async def _hash(store: StoreClient, endpoint: Endpoint, revision: int) -> dict[str, Any]:
    try:
        digest, _, compacted = await store.hash_kv(endpoint, revision)
    except StoreError as error:
        if isinstance(error, Compacted) or error.code == "compacted":
            raise
        return {"error": str(error), "hash": "", "compacted": 0}
    return {"error": "", "hash": f"{digest:016x}", "compacted": compacted}


async def compact(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    async with store_client(config) as store:
        revision = await store.read_index() if args.revision == "now" else _revision(args.revision)
        await store.compact(revision)
    if args.output == "json":
        out.result(json.dumps({"compacted": revision}))
        return
    out.result(f"compacted revision {revision}")


def _revision(text: str) -> int:
    if not text.isdecimal():
        raise CommandError(f"{text!r} is no revision", "sk8 store status shows the newest; `now` stands for it", code=2)
    return int(text)


ADVICE = {
    "NOSPACE": "delete what is not needed, or raise quota_backend_bytes; sk8 store compact now; then sk8 store alarms "
    "--disarm. Deletes work meanwhile",
    "CORRUPT": "sk8 store hash shows who differs: sk8 member remove it (it joins again as a new member and copies the "
    "state of the others), then sk8 store alarms --disarm. Writes are refused meanwhile",
}


async def alarms(args: argparse.Namespace, config: ClusterConfig, out: Output) -> int:
    """Exit code 1 while one stands."""
    async with store_client(config) as store:
        found = await (store.alarm_disarm() if args.disarm else store.alarm_list())
    if args.output == "json":
        out.result(json.dumps([{"member": member, "alarm": kind} for member, kind in found], indent=2))
    else:
        for member, kind in found:
            out.result(f"member {member}: {kind}")
        for kind in sorted({kind for _, kind in found}):
            out.say(f"  {kind}: {ADVICE.get(kind, '')}")
        if not found:
            out.say("  no alarm stands")
    return 1 if found else 0


async def dump_wal(args: argparse.Namespace, out: Output) -> None:
    """Works on a directory, whether or not its member runs; changes nothing."""
    given: Path = args.directory
    below = (given / "wal", given / "member" / "wal", given / "state" / "member" / "wal")
    directory = next((path for path in below if path.is_dir()), given)
    if not directory.is_dir():
        raise CommandError(f"{directory} is no directory", "such as /var/lib/sk8/machines/m1/state/member")
    with clear_errors():
        for item in dump(directory, values=args.values):
            out.result(json.dumps(item.to_json()) if args.output == "json" else item.text())
