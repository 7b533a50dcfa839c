"""The resourcequota controller: a quota's status says what is allowed and what is used.

Creates and deletes change `status.used` themselves (registry/quota.py); this looks after what they cannot: a quota
whose limits changed or which nobody has counted yet, and every few minutes the whole count anew, so that nothing that
ever went wrong stays wrong.
"""

from __future__ import annotations

from cluster.controllers.env import Env
from cluster.machinery.client import Obj, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_QUOTAS = "resourcequotas"


class ResourceQuotaController:
    name = "resourcequota"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._quotas = env.informer(_QUOTAS)
        self._due: dict[str, float] = {}
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_resource_quota_syncs)
        self._quotas.add_handler(self._on_quota)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self._due.clear()
        self.reconciler.enqueue_all(self._quotas.items())

    def _on_quota(self, old: Obj | None, new: Obj | None) -> None:
        """Charges change only what is used: nothing to do for those."""
        if new is None:
            if old is not None:
                self._due.pop(key_of(old), None)
        elif old is None or not in_step(new):
            self.reconciler.queue.add(key_of(new))

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        quota, counter = self._quotas.get(namespace, name), self._env.quotas
        if quota is None or counter is None:
            return None
        now, period_s = self._env.monotonic(), self._env.config.resource_quota_sync_period_s
        if in_step(quota) and now < self._due.get(key, 0.0):
            return Result(self._due[key] - now)
        await counter.recount(namespace, name)
        self._due[key] = now + period_s
        return Result(period_s)


def in_step(quota: Obj) -> bool:
    """Whether the status speaks of the limits that are set now."""
    hard, status = (quota.get("spec") or {}).get("hard") or {}, quota.get("status") or {}
    return bool(status.get("hard") == hard) and set(status.get("used") or ()) == set(hard)
