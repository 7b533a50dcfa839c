"""Who leads: one key per component in the store, held by a store lease; standbys watch it and take over at once.

IO through the injected Store. Keys and values: docs/contracts.md, "Store".

Invariants:
- `fence` is a compare that holds only while this very term of leadership holds; every write of a leader carries it, so
  an instance that was suspended past its lease cannot write, whatever it believes.
- Belt to that: leading stops (the task is cancelled) before the lease could have run out by our own monotonic clock.
  The lease lives at least ttl from the moment the store handled the last renewal, which is after we sent it; so we
  stop at `sent + ttl - margin`.

      standby ──key absent: grant lease, put if absent──> leading ──renewal overdue / lease gone──> standby
         ^──────────────key deleted (watch)──────────────────┘ run() cancelled or lead() ended: lease revoked
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import orjson
from prometheus_client import Gauge

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339_micro
from cluster.machinery.client import Client, is_already_exists, is_not_found
from cluster.machinery.clock import Clock, monotonic, wall
from cluster.registry.store import Compare, Store, get, put

log = logging.getLogger(__name__)

LEADING = Gauge("leader_election_master_status", "1 while this process leads", ["name"])
_MIRROR_PERIOD_S = 10.0
_RECHECK_S = 15.0
_RETRY_S = 0.2


class Elector:
    def __init__(
        self, store: Store, component: str, identity: str, ttl_s: int = 3, *, clock: Clock = monotonic
    ) -> None:
        if ttl_s < 1:
            raise ValueError(f"leader_elect_lease_duration: {ttl_s} must be at least 1 s")
        self._store = store
        self.component = component
        self.identity = identity
        self._ttl_s = ttl_s
        self._clock = clock
        self._key = f"/sk8/leader/{component}".encode()
        self._create_revision = 0
        self._holder = ""

    @property
    def leading(self) -> bool:
        return self._create_revision > 0

    @property
    def holder(self) -> str:
        """The identity last seen to lead; "" when unknown."""
        return self._holder

    @property
    def fence(self) -> tuple[Compare, ...]:
        """For every transaction: holds while we lead; when we do not lead, a compare that never holds."""
        if self._create_revision:
            return ((self._key, "create", "=", self._create_revision),)
        return ((self._key, "create", "<", 0),)

    async def run(self, lead: Callable[[], Awaitable[None]], *, mirror: Client | None = None) -> None:
        """Stand by, and while elected run `lead()`; returns only by cancellation or when `lead()` raises.

        `mirror`: shows the leader as a coordination.k8s.io Lease in kube-system (for `kubectl get lease`).
        """
        while True:
            try:
                lease_id, sent = await self._acquire()
            except asyncio.CancelledError:
                raise
            except Exception as err:  # noqa: BLE001 - store errors only share `.code`; standby's outermost loop
                log.debug("%s: election: %s", self.component, err)
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._lead(lead, lease_id, sent, mirror)
            finally:
                self._create_revision = 0
                LEADING.labels(self.component).set(0)
                await self._revoke(lease_id)

    # ---- standing by

    async def _acquire(self) -> tuple[int, float]:
        """Wait for the key to be free and take it; the lease and when it was asked for."""
        while True:
            found = await self._store.range(self._key)
            if found.kvs:
                self._holder = _identity(found.kvs[0].value)
                await self._wait_deleted(found.revision + 1)
                continue
            sent = self._clock()
            lease_id = await self._store.lease_grant(self._ttl_s)
            value = orjson.dumps({"identity": self.identity})
            result = await self._store.txn(
                [(self._key, "create", "=", 0)], [put(self._key, value, lease_id)], [get(self._key)]
            )
            if result.succeeded:
                self._create_revision = result.revision
                self._holder = self.identity
                return lease_id, sent
            await self._revoke(lease_id)

    async def _wait_deleted(self, start_revision: int) -> None:
        """Until the key is deleted. Looks itself now and then, should the stream be silently dead."""
        try:
            async with asyncio.timeout(_RECHECK_S):
                async for batch in self._store.watch(self._key, start_revision=start_revision):
                    if any(event.type == 1 for event in batch.events):
                        return
        except TimeoutError:
            return

    # ---- leading

    async def _lead(
        self, lead: Callable[[], Awaitable[None]], lease_id: int, sent: float, mirror: Client | None
    ) -> None:
        log.info("%s: %s leads (revision %d)", self.component, self.identity, self._create_revision)
        LEADING.labels(self.component).set(1)
        task = asyncio.ensure_future(lead())
        renew = asyncio.create_task(self._renew(lease_id, sent), name=f"renew-{self.component}")
        shown = None if mirror is None else asyncio.create_task(self._mirror(mirror), name=f"mirror-{self.component}")
        try:
            await asyncio.wait({task, renew}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # From here on nothing passes the fence check of our own process, even before the tasks have ended.
            self._create_revision = 0
            for t in (task, renew, shown):
                if t is not None:
                    t.cancel()
            await asyncio.gather(*(t for t in (task, renew, shown) if t is not None), return_exceptions=True)
        if task.done() and not task.cancelled() and (err := task.exception()) is not None:
            raise err
        log.warning("%s: %s no longer leads", self.component, self.identity)

    async def _renew(self, lease_id: int, sent: float) -> None:
        """Returns when leading has to stop."""
        margin_s = max(self._ttl_s * 0.15, 0.3)
        while True:
            deadline = sent + self._ttl_s - margin_s
            await asyncio.sleep(min(self._ttl_s / 3.0, max(deadline - self._clock(), 0.0)))
            while True:
                left_s = deadline - self._clock()
                if left_s <= 0:
                    log.warning("%s: the lease was not renewed in time", self.component)
                    return
                attempt = self._clock()
                try:
                    async with asyncio.timeout(left_s):
                        await self._store.lease_keep_alive(lease_id)
                except TimeoutError:
                    continue
                except Exception as err:  # noqa: BLE001 - store errors only share `.code`
                    if getattr(err, "code", "") == "lease_not_found":
                        log.warning("%s: the lease is gone", self.component)
                        return
                    log.debug("%s: renewing: %s", self.component, err)
                    await asyncio.sleep(min(_RETRY_S, max(left_s, 0.0)))
                    continue
                sent = attempt
                break

    async def _revoke(self, lease_id: int) -> None:
        """Free the key for the standbys at once; when that fails the lease runs out by itself."""
        try:
            async with asyncio.timeout(1.0):
                await self._store.lease_revoke(lease_id)
        except Exception as err:  # noqa: BLE001 - store errors only share `.code`; expiry does the same
            log.debug("%s: revoking: %s", self.component, err)

    # ---- what kubectl sees

    async def _mirror(self, client: Client) -> None:
        acquired = wall()
        while True:
            try:
                await self._show(client, acquired)
            except ApiError as err:
                log.debug("%s: showing the lease: %s", self.component, err.message)
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(_MIRROR_PERIOD_S)

    async def _show(self, client: Client, acquired: float) -> None:
        resource, namespace = "leases.coordination.k8s.io", "kube-system"
        # The shown lease is renewed every 10 s, so it says 15: it informs, the store's key decides.
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(_MIRROR_PERIOD_S * 1.5),
            "acquireTime": rfc3339_micro(acquired),
            "renewTime": rfc3339_micro(wall()),
        }
        try:
            current = await client.get(resource, self.component, namespace)
        except ApiError as err:
            if not is_not_found(err):
                raise
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.component, "namespace": namespace},
                "spec": spec | {"leaseTransitions": 0},
            }
            try:
                await client.create(resource, body, namespace)
            except ApiError as taken:
                if not is_already_exists(taken):
                    raise
            return
        old = current.get("spec", {})
        transitions = int(old.get("leaseTransitions") or 0)
        if old.get("holderIdentity") != self.identity:
            transitions += 1
        await client.patch(resource, self.component, {"spec": spec | {"leaseTransitions": transitions}}, namespace)


def _identity(value: bytes) -> str:
    try:
        return str(orjson.loads(value).get("identity", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return ""
