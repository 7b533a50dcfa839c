"""`sk8 snapshot save|status|list|drill`: the store's state in a file, looked at, and proved to be of use. IO."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cluster.cli.keyfile import save_keys
from cluster.cli.output import CommandError, Output, Step, table
from cluster.cli.store_access import clear_errors, endpoint_of, mebibytes, needed_credentials, target_of
from cluster.machine.config import ClusterConfig
from raft.backup import schedule
from raft.backup.drill import drill
from raft.backup.file import SnapshotStatus, describe
from raft.backup.schedule import Taken
from raft.backup.targets import Target
from raft.client_backup import Saved, save_from_any, save_snapshot

NEWEST = "newest"


def share(step: Step, done: int, of: int) -> None:
    step.update(f"{mebibytes(done)} of {mebibytes(of)}")


async def save(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    path = _new_file(args.file, force=args.force)
    with out.step(f"saved the store's state to {path}") as step:
        await _fetch_state(args, config, path, step)
    with out.step("checked it"), clear_errors():
        status = await asyncio.to_thread(describe, path)
    if args.keys is not None:
        save_keys(config, args.keys)
        out.say(f"  the cluster's keys are in {args.keys}: keep them apart from the snapshot, they open its Secrets")
    show(status, str(path), out, as_json=args.output == "json")


def _new_file(name: Path, *, force: bool) -> Path:
    """Raises CommandError."""
    path = name.absolute()
    if path.exists() and not force:
        raise CommandError(f"{path} exists", "choose another name, or --force to replace it")
    if not path.parent.is_dir():
        raise CommandError(f"the directory {path.parent} does not exist", f"mkdir -p {path.parent}")
    return path


async def _fetch_state(args: argparse.Namespace, config: ClusterConfig, path: Path, step: Step) -> Saved:
    tls = needed_credentials(config)
    with clear_errors():
        if args.machine:
            endpoint = endpoint_of(config, args.machine)
            return await save_snapshot(endpoint, path, tls, lambda done, of: share(step, done, of))
        return await save_from_any(config.state_client_endpoints, path, tls, lambda done, of: share(step, done, of))


async def status(args: argparse.Namespace, config: ClusterConfig | None, out: Output) -> None:
    async with local_copy(args.file, args.url, config, out) as path:
        with out.step("read and checked every record") as step, clear_errors():
            found = await asyncio.to_thread(
                describe,
                path,
                skip_hash_check=args.skip_hash_check,
                progress=lambda done, of: share(step, done, of),
            )
    show(found, args.file, out, as_json=args.output == "json")


def show(found: SnapshotStatus, name: str, out: Output, *, as_json: bool) -> None:
    if as_json:
        out.result(json.dumps({"file": name, **found.to_json()}, indent=2))
        return
    header = ("hash", "revision", "total keys", "total size", "format", "compacted", "index", "members", "cluster")
    row = (
        f"{found.hash:016x}",
        str(found.revision),
        str(found.keys),
        mebibytes(found.size_bytes),
        str(found.format),
        str(found.compacted),
        str(found.index),
        ",".join(map(str, found.members)),
        found.cluster_id,
    )
    out.result(table(header, [row]))
    if not found.checked:
        out.warn("the file's checksum was not looked at")


async def list_kept(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    target = await asyncio.to_thread(target_of, config, args.url)
    taken = await _kept(config, target)
    if args.output == "json":
        rows = [{"name": one.name, "taken": _time(one), "revision": one.revision, "url": target.url} for one in taken]
        out.result(json.dumps(rows, indent=2))
        return
    if not taken:
        out.say(f"no snapshot of {config.name} is in {target.url}")
        return
    out.result(table(("name", "taken", "revision"), [(one.name, _time(one), str(one.revision)) for one in taken]))


async def _kept(config: ClusterConfig, target: Target) -> list[Taken]:
    with clear_errors():
        return schedule.of_cluster(config.name, await asyncio.to_thread(target.names))


def _time(taken: Taken) -> str:
    return dt.datetime.fromtimestamp(taken.at_s, dt.UTC).isoformat().replace("+00:00", "Z")


async def run_drill(args: argparse.Namespace, config: ClusterConfig | None, out: Output) -> None:
    async with local_copy(args.file, args.url, config, out) as path:
        logging.getLogger("raft").setLevel(logging.ERROR)  # that members do not answer yet is no news here
        with (
            tempfile.TemporaryDirectory(prefix="sk8-drill-", dir=args.scratch) as scratch,
            out.step("restored it into a scratch group of three, and compared hashes") as step,
            clear_errors(),
        ):
            result = await drill(path, Path(scratch), say=step.update)
            step.update(f"all are {result.snapshot.hash:016x}")
    if args.output == "json":
        hashes = {str(member): f"{digest:016x}" for member, digest in result.hashes.items()}
        document: dict[str, Any] = {"file": args.file, "hashes": hashes, "serving_s": round(result.serving_s, 2)}
        out.result(json.dumps(document | result.snapshot.to_json(), indent=2))
        return
    show(result.snapshot, args.file, out, as_json=False)
    out.result(
        f"members {', '.join(map(str, result.hashes))} served it after {result.serving_s:.1f} s, with equal hashes"
    )


@asynccontextmanager
async def local_copy(name: str, url: str, config: ClusterConfig | None, out: Output) -> AsyncIterator[Path]:
    """The snapshot as a file: ``name`` is a file, a URL, a name in the target, or "newest". Raises CommandError."""
    if name != NEWEST and not url and "://" not in name:
        found = _local_file(name, needed="/" in name or config is None)
        if found is not None:
            yield found
            return
    if "://" in name:
        url, _, name = name.rpartition("/")
    target = await asyncio.to_thread(target_of, config, url)
    if name == NEWEST:
        name = await _newest(config, target)
    with tempfile.TemporaryDirectory(prefix="sk8-snapshot-") as scratch:
        path = Path(scratch) / "snapshot.db"
        with out.step(f"fetched {name} from {target.url}"), clear_errors():
            await asyncio.to_thread(target.get, name, path)
        yield path


def _local_file(name: str, *, needed: bool) -> Path | None:
    path = Path(name).absolute()
    if path.is_file():
        return path
    if needed:
        raise CommandError(f"{path} does not exist")
    return None


async def _newest(config: ClusterConfig | None, target: Target) -> str:
    if config is None:
        raise CommandError("which snapshot is the newest depends on the cluster, and there is none here", "name one")
    taken = await _kept(config, target)
    if not taken:
        raise CommandError(f"no snapshot of {config.name} is in {target.url}", "sk8 snapshot save FILE makes one")
    return taken[-1].name
