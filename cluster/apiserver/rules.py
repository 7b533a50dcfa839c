"""Which rules bind a user, for `kubectl auth can-i --list`. Pure: reads RBAC objects from the byte cache.

This lists; it never decides. Decisions are the authorizer's (cluster/registry/rbac.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache
from cluster.registry.context import UserInfo

Object = dict[str, Any]
_GROUP = "rbac.authorization.k8s.io"
_ACCOUNT = "system:serviceaccount:"


def applies(subject: Mapping[str, Any], user: UserInfo, namespace: str) -> bool:
    """Does a binding's subject mean this user? `namespace` is the binding's, for accounts that name none."""
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "User":
        return user.name == name
    if kind == "Group":
        return name in user.groups
    return kind == "ServiceAccount" and user.name == f"{_ACCOUNT}{subject.get('namespace') or namespace}:{name}"


class RuleLister:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def rules_of(self, user: UserInfo, namespace: str) -> Object:
        """A SelfSubjectRulesReview's status."""
        resource: list[Object] = []
        other: list[Object] = []
        if "system:masters" in user.groups:
            resource.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
            other.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
        for rule in self._bound_rules(user, namespace):
            if rule.get("nonResourceURLs"):
                other.append({"verbs": rule.get("verbs") or [], "nonResourceURLs": rule["nonResourceURLs"]})
            else:
                resource.append(
                    {k: rule[k] for k in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(k)}
                )
        return {"resourceRules": resource, "nonResourceRules": other, "incomplete": False}

    def _bound_rules(self, user: UserInfo, namespace: str) -> Iterable[Object]:
        bindings = [(b, "") for b in self._objects("clusterrolebindings", "")]
        bindings += [(b, namespace) for b in self._objects("rolebindings", namespace)]
        for binding, where in bindings:
            if not any(applies(s, user, where) for s in binding.get("subjects") or ()):
                continue
            ref = binding.get("roleRef") or {}
            plural = "roles" if ref.get("kind") == "Role" else "clusterroles"
            role = self._cache.get(
                SCHEME.named(f"{plural}.{_GROUP}"), where if plural == "roles" else "", str(ref.get("name"))
            )
            if role is not None:
                yield from role.decode().get("rules") or ()

    def _objects(self, plural: str, namespace: str) -> list[Object]:
        table = self._cache.table(SCHEME.named(f"{plural}.{_GROUP}"))
        return [e.decode() for e in table.select(namespace)]
