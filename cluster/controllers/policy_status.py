"""The validatingadmissionpolicy-status controller: tells the author of a policy which fields do not exist.

The decision is `cluster.api.policytypes.warnings`, which is pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import policytypes
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found
from cluster.machinery.reconciler import Reconciler, Result

_POLICIES = "validatingadmissionpolicies.admissionregistration.k8s.io"


class PolicyStatusController:
    name = "validatingadmissionpolicy-status"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._policies = env.informer(_POLICIES)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._policies.add_handler(self._on_policy)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._policies.items())

    def _on_policy(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(new["metadata"]["name"])

    async def _reconcile(self, name: str) -> Result | None:
        policy = self._policies.get("", name)
        if policy is None:
            return None
        generation = policy["metadata"].get("generation", 0)
        if (policy.get("status") or {}).get("observedGeneration") == generation:
            return None
        found = policytypes.warnings(policy)
        checked: dict[str, Any] = {"expressionWarnings": found} if found else {}
        changed = clone(policy)
        changed["status"] = {
            **(changed.get("status") or {}),
            "observedGeneration": generation,
            "typeChecking": checked,
        }
        with ignore_not_found():
            await self._env.client.update(_POLICIES, changed, subresource="status")
        return None
