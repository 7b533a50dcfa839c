"""Which FlowSchema a request matches. Pure.

The first in the order of matchingPrecedence (then name) that has a rule for the request's user and what it asks for;
a FlowSchema whose priority level does not exist matches nothing. Source: k8s.io/apiserver
pkg/util/flowcontrol/rule.go.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry.context import UserInfo

Object = Mapping[str, Any]

_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Schema:
    """One FlowSchema, ready to be matched."""

    name: str
    uid: str
    level: str
    precedence: int
    method: str
    rules: tuple[Object, ...]

    @classmethod
    def of(cls, obj: Object) -> Schema:
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        return cls(
            metadata["name"],
            metadata.get("uid", ""),
            (spec.get("priorityLevelConfiguration") or {}).get("name", ""),
            int(spec.get("matchingPrecedence") or 1000),
            (spec.get("distinguisherMethod") or {}).get("type", ""),
            tuple(spec.get("rules") or ()),
        )

    def matches(self, user: UserInfo, info: RequestInfo) -> bool:
        return any(_subject(rule, user) and _request(rule, info) for rule in self.rules)

    def distinguisher(self, user: UserInfo, info: RequestInfo) -> str:
        """What tells the flows of this schema apart."""
        if self.method == "ByUser":
            return user.name
        return info.namespace if self.method == "ByNamespace" else ""


def in_order(schemas: Iterable[Schema], levels: Container[str]) -> list[Schema]:
    """Those that count, the first to be asked first."""
    return sorted((s for s in schemas if s.level in levels), key=lambda s: (s.precedence, s.name))


def _subject(rule: Object, user: UserInfo) -> bool:
    for subject in rule.get("subjects") or ():
        kind = subject.get("kind")
        if kind == "User" and subject["user"]["name"] in ("*", user.name):
            return True
        if kind == "Group" and (subject["group"]["name"] == "*" or subject["group"]["name"] in user.groups):
            return True
        if kind == "ServiceAccount" and _account(subject["serviceAccount"], user.name):
            return True
    return False


def _account(account: Object, user: str) -> bool:
    if not user.startswith(_ACCOUNT):
        return False
    namespace, _, name = user.removeprefix(_ACCOUNT).partition(":")
    return bool(namespace == account["namespace"] and account["name"] in ("*", name))


def _request(rule: Object, info: RequestInfo) -> bool:
    if info.is_resource:
        return any(_resource(r, info) for r in rule.get("resourceRules") or ())
    return any(_url(r, info) for r in rule.get("nonResourceRules") or ())


def _has(allowed: Iterable[str], value: str) -> bool:
    return any(a in ("*", value) for a in allowed)


def _resource(rule: Object, info: RequestInfo) -> bool:
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if not (
        _has(rule["verbs"], info.verb) and _has(rule["apiGroups"], info.group) and _has(rule["resources"], resource)
    ):
        return False
    if not info.namespace:
        return bool(rule.get("clusterScope"))
    return _has(rule.get("namespaces") or (), info.namespace)


def _url(rule: Object, info: RequestInfo) -> bool:
    if not _has(rule["verbs"], info.verb):
        return False
    return any(
        url in ("*", info.path) or (url.endswith("/*") and info.path.startswith(url[:-1]))
        for url in rule["nonResourceURLs"]
    )
