"""The clusterrole-aggregation controller: a role with an aggregationRule has the rules of those its selectors match.

The decision, `gathered`, is pure. The authorizer gathers for itself too, so a grant counts at once; this writes down
what it grants, for everyone who reads the role.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.api.selectors import from_label_selector
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found
from cluster.machinery.reconciler import Reconciler, Result

_ROLES = "clusterroles.rbac.authorization.k8s.io"


class ClusterRoleAggregationController:
    name = "clusterrole-aggregation"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._roles = env.informer(_ROLES)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._roles.add_handler(self._on_role)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for role in self._roles.items():
            if role.get("aggregationRule"):
                self.reconciler.queue.add(role["metadata"]["name"])

    def _on_role(self, old: Obj | None, new: Obj | None) -> None:
        """Any role may be gathered by, or no longer be of, any that gathers."""
        same = (
            old is not None
            and new is not None
            and all(_part(old, f) == _part(new, f) for f in ("rules", "aggregationRule", "labels"))
        )
        if not same:
            self.resync()

    async def _reconcile(self, name: str) -> Result | None:
        role = self._roles.get("", name)
        if role is None or not role.get("aggregationRule"):
            return None
        rules = gathered(role, self._roles.items())
        if rules == (role.get("rules") or []):
            return None
        changed = clone(role)
        changed["rules"] = rules
        with ignore_not_found():
            await self._env.client.update(_ROLES, changed)
        return None


def _part(role: Obj, field: str) -> Any:
    return role["metadata"].get("labels") if field == "labels" else role.get(field)


def gathered(role: Obj, roles: Iterable[Obj]) -> list[Obj]:
    """In the order of the roles' names, each rule once."""
    wanted = [from_label_selector(s) for s in role["aggregationRule"].get("clusterRoleSelectors") or ()]
    out: list[Obj] = []
    for other in sorted(roles, key=lambda r: str(r["metadata"]["name"])):
        if other["metadata"]["name"] == role["metadata"]["name"]:
            continue
        if any(s.matches(other["metadata"].get("labels")) for s in wanted):
            out += [r for r in other.get("rules") or () if r not in out]
    return out
