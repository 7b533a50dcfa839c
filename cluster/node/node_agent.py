"""Keeping this machine's Node and Lease: registration, status when it changes, a sign of life every moment.

IO only through the injected Client. The Lease is the heartbeat (cheap, constant); the Node's status is written when
something changed, and every `node_status_report_frequency_s` even if nothing did. Registration never gives up: the API
may come after the kubelet. `clock` stamps what users read; intervals are counted on `monotonic`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import owner_reference, rfc3339_micro
from cluster.machinery.client import Client, is_already_exists, is_not_found
from cluster.machinery.clock import Clock
from cluster.machinery.clock import monotonic as monotonic_clock
from cluster.node.config import KubeletConfig
from cluster.node.node_status import (
    Health,
    MachineFacts,
    advertised,
    node_object,
    node_status,
    withdrawn,
    without_heartbeats,
)
from cluster.node.runtime import ImageEntry, Runtime, RuntimeFailure

log = logging.getLogger(__name__)
Obj = dict[str, Any]
LEASE_NAMESPACE = "kube-node-lease"
_LEASES = "leases.coordination.k8s.io"
_RETRY_MAX_S = 2.0
_REGISTER_RETRY_S = 0.3
_IMAGES_PERIOD_S = 60.0
RUNTIME_SYNC_THRESHOLD_S = 30.0
_RECHECK_S = 1.0
_ENGINE_ANSWER_S = 10.0
_ALL_OF_THEM = {"$patch": "replace"}
"""Addresses are merged by type, so what a cloud gave the Node stays. A dual-stack machine, which is in no cloud, has
two of type InternalIP and must replace the list."""


class RuntimeSync:
    """Whether the engine counts as down: it has not answered for 30 s (the kubelet's baseRuntimeSyncThreshold).

    An engine that restarts leaves its containers running; a node that turned NotReady for that would lose its
    endpoints for nothing.
    """

    def __init__(self) -> None:
        self._answered_at: float | None = None
        self._failure = ""

    @property
    def failing(self) -> bool:
        return bool(self._failure)

    def answered(self, now: float) -> None:
        self._answered_at, self._failure = now, ""

    def failed(self, message: str) -> None:
        self._failure = message

    def problem(self, now: float) -> str:
        """Why the node is not ready, "" while it is."""
        if self._answered_at is not None and now - self._answered_at < RUNTIME_SYNC_THRESHOLD_S:
            return ""
        return f"container runtime is down: {self._failure or 'it was not asked yet'}"


class NodeAgent:
    """`network_problem()` says why pods cannot be connected, "" when they can; `pressures()` which of them hold."""

    def __init__(
        self,
        config: KubeletConfig,
        facts: MachineFacts,
        client: Client,
        runtime: Runtime,
        *,
        network_problem: Callable[[], str],
        pressures: Callable[[], tuple[str, ...]] = tuple,
        devices: Callable[[], tuple[dict[str, int], dict[str, int]]] = lambda: ({}, {}),
        clock: Clock,
        monotonic: Clock = monotonic_clock,
    ) -> None:
        self._config = config
        self._facts = facts
        self._client = client
        self._runtime = runtime
        self._network_problem = network_problem
        self._pressures = pressures
        self._devices = devices
        self._clock = clock
        self._monotonic = monotonic
        self._sync = RuntimeSync()
        self._node: Obj | None = None
        self._lease: Obj | None = None
        self._written: Obj | None = None
        self._written_at = 0.0
        self._extended: dict[str, str] = {}
        self._version = ""
        self._images: list[ImageEntry] = []
        self._images_at = 0.0
        self._in_use: list[str] = []
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self.ready = False
        self.lease_renewed_at = 0.0

    @property
    def node(self) -> Obj | None:
        """The Node as last written or read; None before registration."""
        return self._node

    async def register(self) -> None:
        """Create the Node, or take over the one of an earlier start; retries for ever."""
        failures = 0
        while True:
            try:
                self._node = await self._register_once()
                return
            except ApiError as err:
                failures += 1
                if failures & (failures - 1) == 0:  # 1, 2, 4, 8 ...: the API may be long in coming
                    log.warning("registering node %s (%d tries): %s", self._config.node_name, failures, err.message)
                await asyncio.sleep(_REGISTER_RETRY_S)

    async def _register_once(self) -> Obj:
        wanted = node_object(self._config)
        try:
            return await self._client.create("nodes", wanted)
        except ApiError as err:
            if not is_already_exists(err):
                raise
        node = await self._client.get("nodes", self._config.node_name)
        labels = node["metadata"].get("labels") or {}
        ours = {k: v for k, v in wanted["metadata"]["labels"].items() if labels.get(k) != v}
        if not ours:
            return node
        return await self._client.patch("nodes", self._config.node_name, {"metadata": {"labels": ours}})

    # ------------------------------------------------------------ status

    def changed(self) -> None:
        """Something that the status shows may have changed: look now."""
        self._changed.set()

    async def report_in_use(self, volumes: list[str]) -> None:
        """Put node.status.volumesInUse; returns once the API has it. Raises ApiError."""
        self._in_use = list(volumes)
        await self.write_status()

    async def write_status(self) -> None:
        """Write the status if it changed or is old. Raises ApiError."""
        async with self._writing:
            await self._write_status()

    async def try_write_status(self) -> None:
        """Once; a failure is only logged."""
        try:
            await self.write_status()
        except ApiError as err:
            log.warning("writing the status of node %s: %s", self._config.node_name, err.message)

    async def _write_status(self) -> None:
        health = await self._health()
        now, at = self._clock(), self._monotonic()
        previous = ((self._node or {}).get("status") or {}).get("conditions") or []
        extended = advertised(self._node)
        status = node_status(
            self._config,
            self._facts,
            runtime_version=self._version,
            health=health,
            images=self._images,
            volumes_in_use=self._in_use,
            devices=self._devices(),
            extended=extended,
            previous=previous,
            now=now,
        )
        plain = without_heartbeats(status)
        due = at - self._written_at >= self._config.node_status_report_frequency_s
        if plain == self._written and not due and self._agrees(previous, status):
            return
        allocatable = withdrawn(self._node) | status["allocatable"]
        addresses = [*status["addresses"], *([_ALL_OF_THEM] if self._config.node_ipv6 else [])]
        patch = {"status": {**status, "addresses": addresses, "allocatable": allocatable}}
        self._node = await self._client.patch(
            "nodes", self._config.node_name, patch, kind="strategic", subresource="status"
        )
        self._written, self._written_at, self._extended = plain, at, extended
        self.ready = not (health.runtime or health.network)

    @staticmethod
    def _agrees(seen: list[Obj], status: Obj) -> bool:
        """Whether the conditions in the API are still ours (the node controller sets them to Unknown)."""
        theirs = {c["type"]: c.get("status") for c in seen}
        return all(theirs.get(c["type"]) == c["status"] for c in status["conditions"])

    def seen(self, node: Obj) -> None:
        """The Node as the API has it now."""
        self._node = node
        if self._written is None:
            return
        conditions = (node.get("status") or {}).get("conditions") or []
        if advertised(node) != self._extended or not self._agrees(conditions, self._written):
            self._changed.set()

    async def _health(self) -> Health:
        try:
            async with asyncio.timeout(_ENGINE_ANSWER_S):
                self._version = await self._runtime.version()
            if not self._images or self._monotonic() - self._images_at > _IMAGES_PERIOD_S:
                self._images, self._images_at = await self._runtime.images(), self._monotonic()
            self._sync.answered(self._monotonic())
        except (RuntimeFailure, TimeoutError) as err:
            text = str(err) or f"the container engine did not answer within {_ENGINE_ANSWER_S:g} s"
            if not self._sync.failing:
                log.warning("%s; looking again every second", text)
            self._sync.failed(text)
        runtime = self._sync.problem(self._monotonic())
        return Health(runtime=runtime, network=self._network_problem(), pressures=self._pressures())

    async def run_status(self) -> None:
        """Keep the status current; returns only by cancellation."""
        delay = 0.1
        while True:
            self._changed.clear()
            try:
                await self.write_status()
                delay = 0.1
                wait = _RECHECK_S if self._sync.failing else self._config.node_status_update_frequency_s
            except ApiError as err:
                log.warning("writing the status of node %s: %s", self._config.node_name, err.message)
                if is_not_found(err):
                    await self.register()
                wait, delay = delay, min(delay * 2, _RETRY_MAX_S)
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    # ------------------------------------------------------------ lease

    async def run_lease(self) -> None:
        """Renew the Lease for ever; returns only by cancellation.

        One try may take half of the lease's life: an answer that never comes must leave time for another server's.
        """
        loop = asyncio.get_running_loop()
        limit = max(self._config.node_lease_duration_s / 2, self._config.node_lease_renew_s)
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(limit):
                    await self._renew()
                self.lease_renewed_at = self._clock()
            except (ApiError, TimeoutError) as err:
                self._lease = None
                text = err.message if isinstance(err, ApiError) else "the API did not answer in time"
                log.warning("renewing the lease of node %s: %s", self._config.node_name, text)
            await asyncio.sleep(max(self._config.node_lease_renew_s - (loop.time() - began), 0.05))

    async def _renew(self) -> None:
        now = rfc3339_micro(self._clock())
        if self._lease is None:
            try:
                self._lease = await self._client.get(_LEASES, self._config.node_name, LEASE_NAMESPACE)
            except ApiError as err:
                if not is_not_found(err):
                    raise
                self._lease = await self._client.create(_LEASES, self._new_lease(now), LEASE_NAMESPACE)
                return
        spec = {
            **(self._lease.get("spec") or {}),
            "holderIdentity": self._config.node_name,
            "leaseDurationSeconds": self._config.node_lease_duration_s,
            "renewTime": now,
        }
        self._lease = await self._client.update(_LEASES, {**self._lease, "spec": spec})

    def _new_lease(self, now: str) -> Obj:
        meta: Obj = {"name": self._config.node_name, "namespace": LEASE_NAMESPACE}
        if self._node is not None:
            owner = {"apiVersion": "v1", "kind": "Node", "metadata": self._node["metadata"]}
            meta["ownerReferences"] = [owner_reference(owner, controller=False)]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": self._config.node_name,
                "leaseDurationSeconds": self._config.node_lease_duration_s,
                "renewTime": now,
            },
        }
