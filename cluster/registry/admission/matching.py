"""Which requests a webhook or a policy wants to see: rules, namespaces, objects.

IO only through PolicyView (a namespace's labels). Source: k8s.io/apiserver pkg/admission/plugin/webhook/predicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from cluster.api import selectors
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.api.selectors import LabelSelector
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView

Object = dict[str, Any]
Rule = Mapping[str, Any]

_GROUP = "admissionregistration.k8s.io"


def exempt(request: Request) -> bool:
    """Nobody's webhook or policy may lock others out of the configuration of webhooks and policies."""
    return request.info.group == _GROUP


def matched_version(rules: Iterable[Rule], request: Request, *, exact: bool) -> str:
    """The version that the rules want the object in: the request's own where a rule names it, else, unless `exact`,
    another in which the resource is served; "" when they do not match."""
    own = request.info.version
    versions = (own,) if exact else (own, *(v for v in _versions(request.info) if v != own))
    rules = tuple(rules)
    return next((v for v in versions if any(_rule_matches(rule, request, v) for rule in rules)), "")


def _rule_matches(rule: Rule, request: Request, version: str) -> bool:
    """Operations, groups, versions, resources, scope and, for policies, names."""
    info = request.info
    asked = (("operations", request.operation), ("apiGroups", info.group), ("apiVersions", version))
    if not all(_has(rule.get(field), value) for field, value in asked):
        return False
    scope = rule.get("scope") or "*"
    own_scope = "Namespaced" if request.namespace and info.name != "namespaces" else "Cluster"
    if scope not in ("*", own_scope):
        return False
    names = rule.get("resourceNames")
    if names and request.name not in names:
        return False
    return any(_resource(r, info.plural, request.subresource) for r in rule.get("resources") or ())


def _has(wanted: Any, value: str) -> bool:
    return bool(wanted) and ("*" in wanted or value in wanted)


def _resource(pattern: str, plural: str, subresource: str) -> bool:
    """`pods`, `pods/log`, `pods/*`, `*` (no subresources), `*/scale`, `*/*`."""
    resource, slash, sub = pattern.partition("/")
    if resource not in ("*", plural):
        return False
    return (sub in ("*", subresource)) if slash else not subresource


def _versions(info: ResourceInfo) -> tuple[str, ...]:
    """All in which the resource is served."""
    return info.custom.served if info.custom is not None else _builtin_versions(info.group, info.plural)


@lru_cache(maxsize=512)
def _builtin_versions(group: str, plural: str) -> tuple[str, ...]:
    return tuple(i.version for i in SCHEME.served() if i.group == group and i.plural == plural)


async def namespace_matches(selector: Object | None, request: Request, view: PolicyView) -> bool:
    """Cluster-scoped objects always match, but a Namespace is judged by its own labels."""
    if not selector:
        return True
    if request.info.name == "namespaces":
        obj = request.obj if request.obj is not None else request.old
        labels = ((obj or {}).get("metadata") or {}).get("labels") or {}
    elif not request.namespace:
        return True
    else:
        labels = await view.labels(request.namespace)
    return selector_of(selector).matches(labels)


def object_matches(selector: Object | None, request: Request) -> bool:
    """The object as it is or as it was: an update cannot slip out of a selector."""
    if not selector:
        return True
    parsed = selector_of(selector)
    return any(
        parsed.matches((o.get("metadata") or {}).get("labels") or {})
        for o in (request.obj, request.old)
        if o is not None
    )


def selector_of(selector: Object) -> LabelSelector:
    return _parsed(orjson.dumps(selector, option=orjson.OPT_SORT_KEYS))


@lru_cache(maxsize=1024)
def _parsed(text: bytes) -> LabelSelector:
    return selectors.from_label_selector(orjson.loads(text))
