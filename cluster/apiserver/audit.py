"""What is noted of which request: audit.k8s.io/v1 policies and events. Pure, but for reading the policy file at start.

The first rule that matches decides the level: None, Metadata, Request (with what was sent) or RequestResponse (with
what was answered, too); no rule is None. Bodies of kinds that carry secrets (Secrets, token requests and reviews) are
never noted, whatever the policy says: those requests are noted as Metadata. Source: audit.k8s.io/v1,
apiserver/pkg/audit/policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cluster.api.meta import rfc3339_micro
from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry import yaml_input
from cluster.registry.context import UserInfo
from cluster.registry.rbac import url_matches

NONE, METADATA, REQUEST, REQUEST_RESPONSE = "None", "Metadata", "Request", "RequestResponse"
_LEVELS = (NONE, METADATA, REQUEST, REQUEST_RESPONSE)
RECEIVED, STARTED, COMPLETE = "RequestReceived", "ResponseStarted", "ResponseComplete"
_STAGES = (RECEIVED, STARTED, COMPLETE, "Panic")
_SECRETIVE = frozenset(
    (("", "secrets", ""), ("", "serviceaccounts", "token"), ("authentication.k8s.io", "tokenreviews", ""))
)
_RULE_FIELDS = frozenset(
    ("level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
     "omitManagedFields")
)  # fmt: skip

Object = dict[str, Any]


class BadPolicy(ValueError):
    """The policy file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one request's events hold."""

    level: str
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False

    def notes(self, stage: str) -> bool:
        return self.level != NONE and stage not in self.omit_stages


_NOTHING = Judgement(NONE)


class Policy:
    """Rules in order."""

    def __init__(self, policy: Object) -> None:
        if policy.get("kind") != "Policy" or policy.get("apiVersion") != "audit.k8s.io/v1":
            raise BadPolicy("an audit policy is of kind Policy in version audit.k8s.io/v1")
        self._rules: list[Object] = policy.get("rules") or []
        if not self._rules:
            raise BadPolicy("an audit policy needs at least one rule")
        self._omit = frozenset(policy.get("omitStages") or ())
        self._omit_managed = bool(policy.get("omitManagedFields"))
        _check_stages(self._omit)
        for i, rule in enumerate(self._rules):
            _check_rule(i, rule)

    def judge(self, user: UserInfo, info: RequestInfo) -> Judgement:
        for rule in self._rules:
            if _matches(rule, user, info):
                level = rule["level"]
                if level in (REQUEST, REQUEST_RESPONSE) and (info.group, info.resource, info.subresource) in _SECRETIVE:
                    level = METADATA
                omit = self._omit | frozenset(rule.get("omitStages") or ())
                managed = rule.get("omitManagedFields")
                return Judgement(level, omit, self._omit_managed if managed is None else bool(managed))
        return _NOTHING


def load_policy(path: str) -> Policy:
    """Raises BadPolicy."""
    try:
        found = yaml_input.load(Path(path).read_bytes())
    except (OSError, yaml_input.BadYaml) as e:
        raise BadPolicy(f"{path}: {e}") from e
    if not isinstance(found, dict):
        raise BadPolicy(f"{path}: not an object")
    try:
        return Policy(found)
    except BadPolicy as e:
        raise BadPolicy(f"{path}: {e}") from e


def _check_stages(stages: frozenset[str]) -> None:
    for stage in stages:
        if stage not in _STAGES:
            raise BadPolicy(f"omitStages: {stage!r} is none of {', '.join(_STAGES)}")


def _check_rule(i: int, rule: Any) -> None:
    if not isinstance(rule, dict):
        raise BadPolicy(f"rules[{i}]: not an object")
    unknown = set(rule) - _RULE_FIELDS
    if unknown:
        raise BadPolicy(f"rules[{i}]: unknown field {min(unknown)!r}")
    if rule.get("level") not in _LEVELS:
        raise BadPolicy(f"rules[{i}].level: {rule.get('level')!r} is none of {', '.join(_LEVELS)}")
    if rule.get("nonResourceURLs") and (rule.get("resources") or rule.get("namespaces")):
        raise BadPolicy(f"rules[{i}]: a rule is for resources or for nonResourceURLs, not both")
    _check_stages(frozenset(rule.get("omitStages") or ()))


def _matches(rule: Object, user: UserInfo, info: RequestInfo) -> bool:
    if rule.get("users") and user.name not in rule["users"]:
        return False
    if rule.get("userGroups") and not set(rule["userGroups"]) & set(user.groups):
        return False
    if rule.get("verbs") and info.verb not in rule["verbs"]:
        return False
    if not rule.get("nonResourceURLs") and not rule.get("resources") and not rule.get("namespaces"):
        return True
    if not info.is_resource:
        return any(url_matches(u, info.path) for u in rule.get("nonResourceURLs") or ())
    if rule.get("nonResourceURLs"):
        return False
    if rule.get("namespaces") and info.namespace not in rule["namespaces"]:
        return False
    return not rule.get("resources") or any(_group_resources(r, info) for r in rule["resources"])


def _group_resources(wanted: Object, info: RequestInfo) -> bool:
    if wanted.get("group", "") not in (info.group, "*"):
        return False
    names = wanted.get("resourceNames")
    if names and info.name not in names:
        return False
    resources = wanted.get("resources")
    if not resources:
        return True
    whole = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    return any(
        r in (whole, "*") or (info.subresource and r in (f"{info.resource}/*", f"*/{info.subresource}"))
        for r in resources
    )


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Subject:
    """Of whom and what the events of one request tell."""

    audit_id: str
    uri: str
    info: RequestInfo
    user: UserInfo
    acting_as: UserInfo | None
    source: str
    user_agent: str
    received: float


def _object_ref(info: RequestInfo) -> Object:
    parts = {
        "resource": info.resource,
        "namespace": info.namespace,
        "name": info.name,
        "apiGroup": info.group,
        "apiVersion": info.version,
        "subresource": info.subresource,
    }
    return {k: v for k, v in parts.items() if v}


def event(judgement: Judgement, subject: Subject, stage: str, now: float) -> Object:
    """One event without what only some stages and levels have; times in seconds since the epoch."""
    out: Object = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": judgement.level,
        "auditID": subject.audit_id,
        "stage": stage,
        "requestURI": subject.uri,
        "verb": subject.info.verb,
        "user": subject.user.to_dict(),
        "sourceIPs": [subject.source],
    }
    if subject.acting_as is not None:
        out["impersonatedUser"] = subject.acting_as.to_dict()
    if subject.user_agent:
        out["userAgent"] = subject.user_agent
    if subject.info.is_resource:
        out["objectRef"] = _object_ref(subject.info)
    out["requestReceivedTimestamp"] = rfc3339_micro(subject.received)
    out["stageTimestamp"] = rfc3339_micro(now)
    return out


def response_status(code: int, body: bytes) -> Object:
    """A failure's Status in full, otherwise the code alone."""
    if code >= 400:
        found = _decoded(body)
        if isinstance(found, dict) and found.get("kind") == "Status":
            kept = ("metadata", "status", "message", "reason", "details", "code")
            return {k: found[k] for k in kept if k in found}
    return {"metadata": {}, "code": code}


def noted_object(raw: bytes, judgement: Judgement) -> Any:
    """A body as events show it; None when it is no JSON."""
    found = _decoded(raw)
    if judgement.omit_managed_fields and isinstance(found, dict):
        for obj in (found, *(i for i in found.get("items") or () if isinstance(i, dict))):
            metadata: Mapping[str, Any] | None = obj.get("metadata")
            if isinstance(metadata, dict):
                metadata.pop("managedFields", None)
    return found


def _decoded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
