"""`sk8 member list|add|promote|remove`: who votes in the store. IO.

A machine whose disk was lost is replaced without any of these (`actors/members.py`); they are for all else.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cluster.cli.output import CommandError, Output, table
from cluster.cli.store_access import store_client
from cluster.machine.config import ClusterConfig
from cluster.registry.keys import LAST_MEMBER_ID
from raft.client import StoreClient
from raft.config import Address
from raft.errors import StoreError, Unavailable

Listed = list[tuple[int, Address, bool]]


async def list_members(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    async with store_client(config) as store:
        listed = await store.member_list()
        rows = [await _row(store, config, member) for member in listed]
    if args.output == "json":
        out.result(json.dumps(rows, indent=2))
        return
    header = ("id", "status", "name", "peer addrs", "client addrs", "is learner", "role")
    out.result(table(header, [[_cell(row[c.replace(" ", "_")]) for c in header] for row in rows]))


async def _row(store: StoreClient, config: ClusterConfig, member: tuple[int, Address, bool]) -> dict[str, Any]:
    member_id, (host, peer_port, client_port), learner = member
    try:
        said = await store.status((host, client_port))
    except StoreError:
        said = {}
    answers = said.get("member_id") == member_id
    return {
        "id": member_id,
        "status": "started" if answers else "silent",
        "name": name_of(config, host),
        "peer_addrs": f"{host}:{peer_port}",
        "client_addrs": f"{host}:{client_port}",
        "is_learner": learner,
        "role": said["role"] if answers else "unknown",
    }


def _cell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_of(config: ClusterConfig, host: str) -> str:
    return next((spec.name for spec in config.machines if spec.ip == host), host)


async def add(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    spec = next((m for m in config.machines if args.host in (m.name, m.ip)), None)
    host = args.host if spec is None else spec.ip
    address: Address = (host, args.peer_port or config.state_peer_port, args.client_port or config.state_client_port)
    async with store_client(config) as store:
        member_id = await _claim_id(store)
        listed = await store.member_add(member_id, address)
    out.say(
        f"  member {member_id} at {host}:{address[1]} is a learner; sk8 member promote {member_id} makes it a voter"
    )
    _show(listed, args, config, out)


async def _claim_id(store: StoreClient) -> int:
    """An id above all that were ever used, written down before it is: so does the Supervisor."""
    listed, last = await store.member_list(), await store.range(LAST_MEMBER_ID)
    known = [int(kv.value) for kv in last.kvs]
    member_id = max([*known, *(member for member, _, _ in listed)]) + 1
    seen = last.kvs[0].mod_revision if last.kvs else 0
    result = await store.txn(
        [(LAST_MEMBER_ID, "mod", "=", seen)], [("put", LAST_MEMBER_ID, str(member_id).encode(), 0)]
    )
    if not result.succeeded:
        raise CommandError("somebody else changed the members in this moment", "try again")
    return member_id


async def promote(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    async with store_client(config) as store:
        member_id = await _member_id(store, config, args.member)
        try:
            listed = await store.member_promote(member_id)
        except Unavailable as error:
            raise CommandError(
                str(error), "wait until it has caught up; sk8 store status shows how far it is"
            ) from error
    out.say(f"  member {member_id} is a voter")
    _show(listed, args, config, out)


async def remove(args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    async with store_client(config) as store:
        member_id = await _member_id(store, config, args.member)
        listed = await store.member_remove(member_id)
    out.say(f"  member {member_id} is removed for good; a machine of this cluster joins again under a new id by itself")
    _show(listed, args, config, out)


async def _member_id(store: StoreClient, config: ClusterConfig, name: str) -> int:
    """By id, machine or address. Raises CommandError."""
    listed = await store.member_list()
    for member_id, (host, _, _), _ in listed:
        if name in (str(member_id), host, name_of(config, host)):
            return member_id
    known = ", ".join(f"{member_id} ({name_of(config, address[0])})" for member_id, address, _ in listed)
    raise CommandError(f"etcdserver: member not found: {name}", f"the members are {known}")


def _show(listed: Listed, args: argparse.Namespace, config: ClusterConfig, out: Output) -> None:
    rows = [
        {"id": member_id, "name": name_of(config, host), "peer_addrs": f"{host}:{peer}", "is_learner": learner}
        for member_id, (host, peer, _), learner in listed
    ]
    if args.output == "json":
        out.result(json.dumps(rows, indent=2))
        return
    out.result(table(("id", "name", "peer addrs", "is learner"), [[_cell(v) for v in row.values()] for row in rows]))
