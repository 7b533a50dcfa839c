"""Nobody grants what he does not hold: roles and bindings are judged by the rules of who writes them.

IO only through the authorizer. `covers` is pure. A role may contain only what its writer may do there, unless he holds
the verb `escalate` on it; a role may be bound only by who holds all of it, or the verb `bind` on it. system:masters may
do both.

Source: k8s.io/kubernetes pkg/registry/rbac (policybased storage, validation.ConfirmNoEscalation, Covers).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.api import errors
from cluster.registry.admission.request import Request
from cluster.registry.types import Attributes, Authorizer, RuleResolver

Object = dict[str, Any]
Rule = Mapping[str, Any]

GROUP = "rbac.authorization.k8s.io"
ROLES = frozenset((f"roles.{GROUP}", f"clusterroles.{GROUP}"))
BINDINGS = frozenset((f"rolebindings.{GROUP}", f"clusterrolebindings.{GROUP}"))
_MASTERS = "system:masters"
_EVERYTHING: list[Object] = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]


async def check(request: Request, authorizer: Authorizer | None) -> None:
    """Raises 403 naming what the writer does not hold."""
    if not isinstance(authorizer, RuleResolver) or _MASTERS in request.ctx.user.groups:
        return
    if request.info.name in ROLES:
        await _role(request, authorizer)
    else:
        await _binding(request, authorizer)


async def _role(request: Request, authorizer: RuleResolver) -> None:
    new, old = request.obj or {}, request.old or {}
    same_rules = request.operation == "UPDATE" and (new.get("rules") or []) == (old.get("rules") or [])
    aggregates = new.get("aggregationRule")
    if same_rules and aggregates == old.get("aggregationRule"):
        return
    if await _allowed(request, authorizer, "escalate", request.info.plural, request.name):
        return
    if aggregates is not None and aggregates != old.get("aggregationRule"):
        if await _missing(request, authorizer, _EVERYTHING):
            raise request.forbid("must have cluster-admin privileges to use the aggregationRule")
        return
    await _confirm(request, authorizer, new.get("rules") or [])


async def _binding(request: Request, authorizer: RuleResolver) -> None:
    new, old = request.obj or {}, request.old or {}
    if request.operation == "UPDATE" and all(new.get(f) == old.get(f) for f in ("roleRef", "subjects")):
        return
    ref = new.get("roleRef") or {}
    plural = "roles" if ref.get("kind") == "Role" else "clusterroles"
    if await _allowed(request, authorizer, "bind", plural, str(ref.get("name", ""))):
        return
    rules = await authorizer.role_rules(ref, request.namespace)
    if rules is None:
        raise errors.not_found(f"{plural}.{GROUP}", str(ref.get("name", "")))
    await _confirm(request, authorizer, rules)


async def _allowed(request: Request, authorizer: RuleResolver, verb: str, plural: str, name: str) -> bool:
    wanted = Attributes(verb, GROUP, plural, namespace=request.namespace, name=name, version="v1")
    return (await authorizer.authorize(request.ctx.user, wanted)).allowed


async def _missing(request: Request, authorizer: RuleResolver, rules: Sequence[Rule]) -> list[Object]:
    held = await authorizer.rules_of(request.ctx.user, request.namespace)
    lacking = missing(held, rules)
    if lacking and await authorizer.refresh():
        lacking = missing(await authorizer.rules_of(request.ctx.user, request.namespace), rules)
    return lacking


async def _confirm(request: Request, authorizer: RuleResolver, rules: Sequence[Rule]) -> None:
    lacking = await _missing(request, authorizer, rules)
    if lacking:
        user = request.ctx.user
        groups = " ".join(f'"{g}"' for g in user.groups)
        described = "\n".join(sorted({describe(r) for r in compact(lacking)}))
        raise request.forbid(
            f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n'
            f"{described}"
        )


# --- rules against rules ----------------------------------------------------------------------------------------------


def missing(held: Sequence[Rule], wanted: Iterable[Rule]) -> list[Object]:
    """The smallest parts of `wanted` that no rule of `held` covers."""
    return [part for rule in wanted for part in _parts(rule) if not any(_covers(h, part) for h in held)]


def _parts(rule: Rule) -> list[Object]:
    """One verb on one resource of one group (of one name, or any), or on one URL."""
    out: list[Object] = []
    names: list[str] = rule.get("resourceNames") or []
    for group, resource, verb in itertools.product(
        rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("verbs") or ()
    ):
        part = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        out += [{**part, "resourceNames": [n]} for n in names] or [part]
    for url, verb in itertools.product(rule.get("nonResourceURLs") or (), rule.get("verbs") or ()):
        out.append({"nonResourceURLs": [url], "verbs": [verb]})
    return out


def _covers(held: Rule, part: Object) -> bool:
    verbs = held.get("verbs") or ()
    if "*" not in verbs and part["verbs"][0] not in verbs:
        return False
    if "nonResourceURLs" in part:
        url = part["nonResourceURLs"][0]
        return any(
            h in ("*", url) or (h.endswith("*") and url.startswith(h[:-1])) for h in held.get("nonResourceURLs") or ()
        )
    groups, resources = held.get("apiGroups") or (), held.get("resources") or ()
    if "*" not in groups and part["apiGroups"][0] not in groups:
        return False
    resource = part["resources"][0]
    _, slash, subresource = resource.partition("/")
    if "*" not in resources and resource not in resources and not (slash and f"*/{subresource}" in resources):
        return False
    names = held.get("resourceNames") or ()
    return not names or (bool(part.get("resourceNames")) and part["resourceNames"][0] in names)


def compact(parts: Iterable[Object]) -> list[Object]:
    """Parts of the same resource become one rule of several verbs, as a user would write it."""
    out: dict[tuple[Any, ...], Object] = {}
    for part in parts:
        key = tuple(tuple(part.get(f) or ()) for f in ("apiGroups", "resources", "resourceNames", "nonResourceURLs"))
        rule = out.setdefault(key, {**part, "verbs": []})
        rule["verbs"] += [v for v in part["verbs"] if v not in rule["verbs"]]
    return list(out.values())


def describe(rule: Rule) -> str:
    """As Kubernetes prints a rule: {APIGroups:[""], Resources:["pods"], Verbs:["get"]}."""
    shown = (
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("ResourceNames", "resourceNames"),
        ("Verbs", "verbs"),
    )
    parts = []
    for label, field in shown:
        if rule.get(field):
            values = " ".join(f'"{v}"' for v in rule[field])
            parts.append(f"{label}:[{values}]")
    return "{" + ", ".join(parts) + "}"
