"""Defaults of admissionregistration.k8s.io/v1 (pkg/apis/admissionregistration/v1/defaults.go). Pure, in place."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def default_mutating_webhooks(obj: Object) -> None:
    for hook in obj.get("webhooks") or ():
        _webhook(hook)
        hook.setdefault("reinvocationPolicy", "Never")


def default_validating_webhooks(obj: Object) -> None:
    for hook in obj.get("webhooks") or ():
        _webhook(hook)


def _webhook(hook: Object) -> None:
    hook.setdefault("failurePolicy", "Fail")
    hook.setdefault("timeoutSeconds", 10)
    _matching(hook)
    service = (hook.get("clientConfig") or {}).get("service")
    if service is not None:
        service.setdefault("port", 443)
    for rule in hook.get("rules") or ():
        rule.setdefault("scope", "*")


def _matching(spec: Object) -> None:
    spec.setdefault("matchPolicy", "Equivalent")
    spec.setdefault("namespaceSelector", {})
    spec.setdefault("objectSelector", {})


def _resources(resources: Object | None) -> None:
    if resources is None:
        return
    _matching(resources)
    for field in ("resourceRules", "excludeResourceRules"):
        for rule in resources.get(field) or ():
            rule.setdefault("scope", "*")


def default_policy(obj: Object) -> None:
    spec = obj.get("spec")
    if spec is not None:
        spec.setdefault("failurePolicy", "Fail")
        _resources(spec.get("matchConstraints"))


def default_policy_binding(obj: Object) -> None:
    spec = obj.get("spec") or {}
    if spec.get("paramRef") is not None:
        spec["paramRef"].setdefault("parameterNotFoundAction", "Deny")
    _resources(spec.get("matchResources"))
