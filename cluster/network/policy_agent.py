"""Keeps NetworkPolicies in force on one machine. IO shell: watches in, nftables transactions out.

    policy changed               --> a new PolicyTable --> the whole table, atomically
    namespace's labels changed   --> the same, if a policy selects by them
    pod changed                  --> its elements      --> one small transaction
    somebody else's change       --> the whole table

Pods and namespaces are watched only once there is a policy. Before the first full list the kernel is left alone: what
an earlier run put in force stays, and stays when this one stops.

Invariant: of what `_rebuild` and `_dirty` name, the informers are read after these were cleared. So what changes while
a sync waits (DNS shares its loop, and has turns in between) is marked anew and comes with the next sync.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from cluster.machinery.client import Client, key_of, split_key
from cluster.machinery.informer import Informers
from cluster.network.nft import NftError, NftRunner
from cluster.network.policy import Policy, compile_policy
from cluster.network.policy_table import TABLE, PolicyTable, PolicyTableConfig, render_delta, render_full
from cluster.network.tables import KeptTable

log = logging.getLogger(__name__)

Obj = dict[str, Any]
POLICIES = "networkpolicies.networking.k8s.io"
PODS = "pods"
NAMESPACES = "namespaces"
_RETRY_S = 1.0
_PODS_A_TURN = 200
"""About 2 ms of work; then the loop has a turn for others."""


class PolicyAgent:
    """`run()` until cancelled; the table stays when it stops."""

    def __init__(
        self,
        config: PolicyTableConfig,
        client: Client,
        *,
        informers: Informers | None = None,
        nft: NftRunner | None = None,
    ) -> None:
        self._config = config
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._kept = KeptTable(config.family.nft, TABLE, self._foreign, nft)
        self._table: PolicyTable | None = None
        self._in_kernel: set[str] = set()
        self._dirty: set[str] = set()
        self._rebuild = True
        self._by_namespace = True
        self._watching = False
        self._wake = asyncio.Event()
        self._error = ""

    async def run(self) -> None:
        """Returns only by cancellation."""
        self._informers.of(POLICIES).add_handler(self._on_policy)
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="policy-informers")
                group.create_task(self._sync_forever(), name="policy")
        finally:
            self._kept.close()

    def health(self) -> dict[str, object]:
        return {"ready": not self._error, "policies": len(self._informers.of(POLICIES).items()), "error": self._error}

    # ---- events in

    def _on_policy(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._needs_rebuild()

    def _on_namespace(self, old: Obj | None, new: Obj | None) -> None:
        if self._by_namespace and _labels(old) != _labels(new):
            self._needs_rebuild()

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if _seen(old) != _seen(new):
            self._dirty.add(key_of(new or old or {}))
            self._wake.set()

    def _foreign(self) -> None:
        self._needs_rebuild()

    def _needs_rebuild(self) -> None:
        self._rebuild = True
        self._wake.set()

    # ---- rules out

    async def _sync_forever(self) -> None:
        await self._informers.of(POLICIES).wait_synced()
        while True:
            self._wake.clear()
            try:
                await self._sync()
                self._error = ""
            except (NftError, OSError) as err:
                self._rebuild, self._error = True, str(err)
                log.error("network policies not in force, trying again: %s", err)
                await asyncio.sleep(_RETRY_S)
                continue
            await self._wake.wait()

    async def _sync(self) -> None:
        if self._informers.of(POLICIES).items():
            await self._watch_pods()
        if self._rebuild:
            await self._replace()
        elif self._dirty and self._table is not None:
            await self._update(self._table)

    async def _watch_pods(self) -> None:
        pods, namespaces = self._informers.of(PODS), self._informers.of(NAMESPACES)
        if not self._watching:
            self._watching = True
            pods.add_handler(self._on_pod)
            namespaces.add_handler(self._on_namespace)
        await pods.wait_synced()
        await namespaces.wait_synced()

    async def _replace(self) -> None:
        self._rebuild = False
        self._dirty.clear()
        policies = [p for p in map(_compiled, self._informers.of(POLICIES).items()) if p is not None]
        table = PolicyTable(self._config, policies, self._informers.of(NAMESPACES).items() if self._watching else ())
        self._by_namespace = table.by_namespace
        for number, pod in enumerate(self._informers.of(PODS).items() if policies else (), 1):
            table.set_pod(pod)
            if number % _PODS_A_TURN == 0:
                await asyncio.sleep(0)
        table.take()
        text = await asyncio.to_thread(render_full, self._config, table)  # nobody else has this table yet
        await self._kept.replace(text)
        self._table, self._in_kernel = table, set(table.chains)
        log.info("network policies in force: %d, %d elements", len(policies), len(table.elements))

    async def _update(self, table: PolicyTable) -> None:
        dirty, self._dirty = self._dirty, set()
        if not table.strict:
            return
        for number, key in enumerate(sorted(dirty), 1):
            if number % _PODS_A_TURN == 0:
                await asyncio.sleep(0)
            pod = self._informers.of(PODS).get(*split_key(key))
            if pod is None:
                table.remove_pod(key)
            else:
                table.set_pod(pod)
        delta = table.take()
        fresh = {name: rules for name, rules in table.chains.items() if name not in self._in_kernel}
        if delta or fresh:
            await self._kept.apply(render_delta(self._config, delta, fresh))
            self._in_kernel |= set(fresh)


def _compiled(policy: Obj) -> Policy | None:
    try:
        return compile_policy(policy)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        log.error("network policy %s is malformed and has no effect: %r", key_of(policy), err)
        return None


def _labels(obj: Obj | None) -> Obj | None:
    return None if obj is None else obj["metadata"].get("labels") or {}


def _seen(pod: Obj | None) -> tuple[object, ...] | None:
    """What of a pod can change its elements; most updates of a status change nothing of it."""
    if pod is None:
        return None
    status = pod.get("status") or {}
    addresses = (status.get("podIP"), status.get("podIPs"))
    return (addresses, status.get("phase"), _labels(pod), (pod.get("spec") or {}).get("nodeName"))
