"""Validation of RuntimeClass, FlowSchema and PriorityLevelConfiguration (pkg/apis/{node,flowcontrol}/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api.validation import fields, pods
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_SUBJECTS = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}
_MAX_PRECEDENCE = 10_000


def validate_runtime_class(faults: Faults, obj: Object) -> None:
    handler = obj.get("handler", "")
    faults.check("handler", handler, fields.dns_label(handler))
    overhead = (obj.get("overhead") or {}).get("podFixed")
    if overhead:
        pods.resources(faults, "overhead.podFixed", {"limits": overhead})
    fields.check_labels(faults, "scheduling.nodeSelector", (obj.get("scheduling") or {}).get("nodeSelector"))


def validate_runtime_class_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("handler", new.get("handler"), old.get("handler"))


def _subject(faults: Faults, at: str, s: Object) -> None:
    kind = s.get("kind", "")
    if kind not in _SUBJECTS:
        faults.unsupported(at + ".kind", kind, _SUBJECTS)
        return
    who = s.get(_SUBJECTS[kind])
    if who is None:
        faults.required(f"{at}.{_SUBJECTS[kind]}", f"{_SUBJECTS[kind]} is required when subject kind is '{kind}'")
    elif not who.get("name"):
        faults.required(f"{at}.{_SUBJECTS[kind]}.name")


def _flow_rule(faults: Faults, at: str, rule: Object) -> None:
    if not rule.get("subjects"):
        faults.required(at + ".subjects", "subjects must contain at least one value")
    for i, s in enumerate(rule.get("subjects") or ()):
        _subject(faults, f"{at}.subjects[{i}]", s)
    resources, urls = rule.get("resourceRules") or [], rule.get("nonResourceRules") or []
    if not resources and not urls:
        faults.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty")
    for i, r in enumerate(resources):
        where = f"{at}.resourceRules[{i}]"
        for field in ("verbs", "apiGroups", "resources"):
            if not r.get(field):
                faults.required(f"{where}.{field}", f"{field} must contain at least one value")
        if not r.get("namespaces") and not r.get("clusterScope"):
            faults.required(where + ".namespaces", "resource rules that are not cluster scoped must supply at least "
                            "one namespace")  # fmt: skip
    for i, r in enumerate(urls):
        for field in ("verbs", "nonResourceURLs"):
            if not r.get(field):
                faults.required(f"{at}.nonResourceRules[{i}].{field}", f"{field} must contain at least one value")


def validate_flow_schema(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    precedence = spec.get("matchingPrecedence", 0)
    if precedence <= 0:
        faults.invalid("spec.matchingPrecedence", precedence, "must be a positive value")
    elif precedence > _MAX_PRECEDENCE:
        faults.invalid("spec.matchingPrecedence", precedence, f"must not be greater than {_MAX_PRECEDENCE}")
    method = spec.get("distinguisherMethod")
    if method is not None:
        faults.enum("spec.distinguisherMethod.type", method.get("type"), ("ByNamespace", "ByUser"))
    name = (spec.get("priorityLevelConfiguration") or {}).get("name", "")
    if not name:
        faults.required("spec.priorityLevelConfiguration.name", "must reference a priority level")
    else:
        faults.check("spec.priorityLevelConfiguration.name", name, fields.dns_subdomain(name))
    for i, rule in enumerate(spec.get("rules") or ()):
        _flow_rule(faults, f"spec.rules[{i}]", rule)


def validate_priority_level(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    kind, limited = spec.get("type"), spec.get("limited")
    faults.enum("spec.type", kind, ("Exempt", "Limited"))
    if kind == "Exempt" and limited is not None:
        faults.forbidden("spec.limited", "must be nil if the type is not Limited")
    if kind == "Limited" and limited is None:
        faults.required("spec.limited", "must not be empty when type is Limited")
    if kind == "Limited" and spec.get("exempt") is not None:
        faults.forbidden("spec.exempt", "must be nil if the type is Limited")
    if kind != "Limited" or limited is None:
        return
    faults.non_negative("spec.limited.nominalConcurrencyShares", limited.get("nominalConcurrencyShares"))
    response = limited.get("limitResponse") or {}
    faults.enum("spec.limited.limitResponse.type", response.get("type"), ("Queue", "Reject"))
    queuing = response.get("queuing")
    at = "spec.limited.limitResponse.queuing"
    if response.get("type") == "Reject" and queuing is not None:
        faults.forbidden(at, "must be nil if limited.limitResponse.type is not Limited")
    if response.get("type") == "Queue":
        if queuing is None:
            faults.required(at, "must not be empty if limited.limitResponse.type is Limited")
            return
        for field in ("queues", "handSize", "queueLengthLimit"):
            if queuing.get(field, 0) <= 0:
                faults.invalid(f"{at}.{field}", queuing.get(field, 0), "must be positive")
        if queuing.get("handSize", 0) > queuing.get("queues", 0):
            why = f"should not be greater than queues ({queuing.get('queues', 0)})"
            faults.invalid(at + ".handSize", queuing.get("handSize", 0), why)
