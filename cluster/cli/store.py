"""What the store's members say of themselves, for `sk8 status`. IO: the store's client port, as an operator of the box.

`cluster/cli/store*.py` are the one place outside actors/ where `cluster` meets `raft`: a command line may import
anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.cli.store_access import credentials
from cluster.machine.config import ClusterConfig
from raft.client import StoreClient
from raft.errors import StoreError

ANSWER_S = 3.0
NO_STORE: dict[str, Any] = {"leader": "", "revision": 0, "alarms": [], "members": []}


async def store_status(config: ClusterConfig) -> dict[str, Any]:
    """{"leader": machine, "revision": int, "alarms": [...], "members": [...]}; leader "" when there is none.

    `members` are those the leader counts, each with what it said itself; "answers" false for one that is silent.
    """
    tls = credentials(config)
    if tls is None:
        return dict(NO_STORE)
    names = {spec.ip: spec.name for spec in config.control_planes}
    client = StoreClient(config.state_client_endpoints, tls, timeout_s=ANSWER_S)
    try:
        said = await asyncio.gather(*(_ask(client, endpoint) for endpoint in config.state_client_endpoints))
        by_host = dict(zip([host for host, _ in config.state_client_endpoints], said, strict=True))
        try:
            listed = await client.member_list()
        except StoreError:
            return NO_STORE | {"members": [_member(names[h], 0, False, s) for h, s in by_host.items() if s]}
    finally:
        await client.close()
    members = [
        _member(names.get(address[0], address[0]), member_id, learner, by_host.get(address[0]))
        for member_id, address, learner in listed
    ]
    leader = next((m["name"] for m in members if m["role"] == "leader"), "")
    alarms: list[Any] = next((status["alarms"] for status in said if status), [])
    return {
        "leader": leader,
        "revision": max((m["revision"] for m in members), default=0),
        "alarms": alarms,
        "members": members,
    }


async def _ask(client: StoreClient, endpoint: tuple[str, int]) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await client.status(endpoint)
    except (StoreError, OSError, TimeoutError):
        return None


def _member(name: str, member_id: int, learner: bool, said: dict[str, Any] | None) -> dict[str, Any]:
    said = said or {}
    return {
        "name": name,
        "id": member_id or said.get("member_id", 0),
        "learner": learner,
        "answers": bool(said),
        "role": said.get("role", "unknown"),
        "term": said.get("term", 0),
        "revision": said.get("revision", 0),
        "keys": said.get("keys", 0),
        "db_size_bytes": said.get("db_size_bytes", 0),
    }
