"""Every version of one object that the store still has. IO: the store's client port, as an operator of the box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from cluster.api.scheme import SCHEME
from cluster.cli.store_access import store_client
from cluster.machine.config import ClusterConfig
from cluster.registry.codec import Codec
from raft.errors import StoreError

MOST = 40


@dataclass(slots=True)
class History:
    """`created`: the revision of the object's creation, 0 when it is not there. `versions`: (revision, object) of its
    writes, the oldest first; those that are compacted are missing at the beginning."""

    created: int = 0
    versions: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


async def history(config: ClusterConfig, resource: str, namespace: str, name: str) -> History:
    """Not for resources that are encrypted at rest. Raises CommandError."""
    info, codec = SCHEME.named(resource), Codec()
    key = f"/registry/{info.group or 'core'}/{info.plural}/{namespace}/{name}".encode()
    found = History()
    at = 0  # the newest
    async with store_client(config) as store:
        while len(found.versions) < MOST:
            try:
                answer = await store.range(key, revision=at)
            except StoreError as e:
                if e.code == "compacted":
                    break
                raise
            if not answer.kvs:
                break
            kv = answer.kvs[0]
            found.created = kv.create_revision
            found.versions.insert(0, (kv.mod_revision, orjson.loads(codec.decode(key, kv.value, kv.mod_revision).raw)))
            if kv.version == 1:
                break
            at = kv.mod_revision - 1
    return found
