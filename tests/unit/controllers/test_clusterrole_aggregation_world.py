"""Aggregated ClusterRoles: rules follow the roles they are gathered from."""

from __future__ import annotations

from typing import Any

from cluster.controllers.clusterrole_aggregation import ClusterRoleAggregationController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World

ROLES = "clusterroles.rbac.authorization.k8s.io"


def _role(name: str, rules: list[Obj] | None = None, **labels: str) -> Obj:
    return {"metadata": {"name": name, "labels": labels}, "rules": rules or []}


def _rule(resource: str) -> Obj:
    return {"apiGroups": [""], "resources": [resource], "verbs": ["get"]}


async def test_rules_are_gathered_and_let_go(  # and through two steps: what is gathered may be gathered again
) -> None:
    async with World(ClusterRoleAggregationController) as w:
        inner: dict[str, Any] = _role("inner", outer="yes")
        inner["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"inner": "yes"}}]}
        outer: dict[str, Any] = _role("outer", [_rule("secrets")])
        outer["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"outer": "yes"}}]}
        for role in (outer, inner, _role("b", [_rule("pods")], inner="yes"), _role("a", [_rule("nodes")], outer="yes")):
            await w.create(ROLES, role)
        await w.settle()
        assert (await w.client.get(ROLES, "outer"))["rules"] == [_rule("nodes"), _rule("pods")]
        leaving = clone(await w.client.get(ROLES, "b"))
        leaving["metadata"]["labels"] = {}
        await w.client.update(ROLES, leaving)
        await w.settle()
        assert (await w.client.get(ROLES, "outer"))["rules"] == [_rule("nodes")]
        assert not (await w.client.get(ROLES, "inner")).get("rules")
