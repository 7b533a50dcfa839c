"""The FlowSchemas and PriorityLevelConfigurations that every cluster starts with.

Pure data, after k8s.io/apiserver pkg/apis/flowcontrol/bootstrap: the mandatory ones (`exempt`, `catch-all`), which are
kept as they are here whatever becomes of them, and the suggested ones, which are a user's to change.
"""

from __future__ import annotations

from typing import Any

from cluster.api.scheme import SCHEME

Object = dict[str, Any]

FLOW_SCHEMAS = SCHEME.named("flowschemas.flowcontrol.apiserver.k8s.io")
PRIORITY_LEVELS = SCHEME.named("prioritylevelconfigurations.flowcontrol.apiserver.k8s.io")
MANDATORY = ("exempt", "catch-all")
AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"

# name: (nominalConcurrencyShares, lendablePercent, queues, handSize)
_LEVELS = {
    "leader-election": (10, 0, 16, 4),
    "node-high": (40, 25, 64, 6),
    "system": (30, 33, 64, 6),
    "workload-high": (40, 50, 128, 6),
    "workload-low": (100, 90, 128, 6),
    "global-default": (20, 50, 128, 6),
}
_QUEUE_LENGTH = 50

_EVERYONE = ("Group:system:unauthenticated", "Group:system:authenticated")
_MANAGER, _SCHEDULER = "User:system:kube-controller-manager", "User:system:kube-scheduler"
_SYSTEM_ACCOUNTS = "ServiceAccount:kube-system:*"
_URLS: Object = {"verbs": ["*"], "nonResourceURLs": ["*"]}


def _rule(verbs: str, group: str, resources: str, *, cluster: bool = False) -> Object:
    rule: Object = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split(), "namespaces": ["*"]}
    return {**rule, "clusterScope": True} if cluster else rule


_ALL = (_rule("*", "*", "*", cluster=True),)
_LEASES = (_rule("get create update", "coordination.k8s.io", "leases"),)

# name: (priority level, precedence, distinguisher, subjects, resource rules, with non-resource URLs)
_SCHEMAS: dict[str, tuple[str, int, str, tuple[str, ...], tuple[Object, ...], bool]] = {
    "exempt": ("exempt", 1, "", ("Group:system:masters",), _ALL, True),
    "probes": ("exempt", 2, "", _EVERYONE, (), False),
    "system-leader-election": ("leader-election", 100, "ByUser", (_MANAGER, _SCHEDULER), _LEASES, False),
    "endpoint-controller": (
        "workload-high",
        150,
        "ByUser",
        (
            _MANAGER,
            "ServiceAccount:kube-system:endpoint-controller",
            "ServiceAccount:kube-system:endpointslicemirroring-controller",
        ),
        (_rule("get create update", "", "endpoints"),),
        False,
    ),
    "workload-leader-election": ("leader-election", 200, "ByUser", (_SYSTEM_ACCOUNTS,), _LEASES, False),
    "system-node-high": (
        "node-high",
        400,
        "ByUser",
        ("Group:system:nodes",),
        (_rule("*", "", "nodes nodes/status", cluster=True), _rule("*", "coordination.k8s.io", "leases")),
        False,
    ),
    "system-nodes": ("system", 500, "ByUser", ("Group:system:nodes",), _ALL, True),
    "kube-controller-manager": ("workload-high", 800, "ByNamespace", (_MANAGER,), _ALL, True),
    "kube-scheduler": ("workload-high", 800, "ByNamespace", (_SCHEDULER,), _ALL, True),
    "kube-system-service-accounts": ("workload-high", 900, "ByNamespace", (_SYSTEM_ACCOUNTS,), _ALL, True),
    "service-accounts": ("workload-low", 9000, "ByUser", ("Group:system:serviceaccounts",), _ALL, True),
    "global-default": ("global-default", 9900, "ByUser", _EVERYONE, _ALL, True),
    "catch-all": ("catch-all", 10000, "ByUser", _EVERYONE, _ALL, True),
}


def priority_levels() -> list[Object]:
    exempt = {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}
    rejecting = {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}
    levels = [_named("exempt", exempt), _named("catch-all", {"type": "Limited", "limited": rejecting})]
    for name, (shares, lendable, queues, hand) in _LEVELS.items():
        queuing = {"queues": queues, "handSize": hand, "queueLengthLimit": _QUEUE_LENGTH}
        limited = {"nominalConcurrencyShares": shares, "lendablePercent": lendable}
        response = {"type": "Queue", "queuing": queuing}
        levels.append(_named(name, {"type": "Limited", "limited": {**limited, "limitResponse": response}}))
    return levels


def flow_schemas() -> list[Object]:
    return [_named(name, _schema_spec(name)) for name in _SCHEMAS]


def _named(name: str, spec: Object) -> Object:
    return {"metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec}


def _schema_spec(name: str) -> Object:
    level, precedence, method, subjects, rules, with_urls = _SCHEMAS[name]
    policy: Object = {"subjects": [_subject(s) for s in subjects]}
    if rules:
        policy["resourceRules"] = [dict(r) for r in rules]
    if name == "probes":
        policy["nonResourceRules"] = [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]
    elif with_urls:
        policy["nonResourceRules"] = [dict(_URLS)]
    spec: Object = {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [policy]}
    return {**spec, "distinguisherMethod": {"type": method}} if method else spec


def _subject(text: str) -> Object:
    kind, _, name = text.partition(":")
    if kind == "ServiceAccount":
        namespace, _, name = name.partition(":")
        return {"kind": kind, "serviceAccount": {"namespace": namespace, "name": name}}
    return {"kind": kind, kind.lower(): {"name": name}}
