"""Validation of Deployment, ReplicaSet, StatefulSet, DaemonSet and PodDisruptionBudget
(pkg/apis/{apps,policy}/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import selectors
from cluster.api.validation import fields, pods
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_STATEFUL_MUTABLE = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
)  # fmt: skip

_PERCENT_MESSAGE = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)


def _selector_and_template(faults: Faults, spec: Object, kind: str = "deployment") -> None:
    selector = spec.get("selector")
    template = spec.get("template") or {}
    if selector is None:
        faults.required("spec.selector")
    else:
        fields.label_selector(faults, "spec.selector", selector)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            faults.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector and not faults.causes and not selectors.from_label_selector(selector).matches(labels):
        faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    claims = [(c.get("metadata") or {}).get("name", "") for c in spec.get("volumeClaimTemplates") or ()]
    pods.validate_template(faults, "spec.template", template, claims)
    policy = (template.get("spec") or {}).get("restartPolicy", "Always")
    if policy != "Always":
        faults.unsupported("spec.template.spec.restartPolicy", policy, ("Always",))


def _counts(faults: Faults, spec: Object, *names: str) -> None:
    for name in names:
        faults.non_negative("spec." + name, spec.get(name))


def int_or_percent(faults: Faults, at: str, value: Any) -> int:
    """Its number, for judging zero; percentages of 100 and more are refused where they cannot be."""
    if isinstance(value, str):
        if not fields.is_percent(value):
            faults.invalid(at, value, _PERCENT_MESSAGE)
            return 1
        return int(value[:-1])
    faults.non_negative(at, value)
    return int(value or 0)


def _at_most_all(faults: Faults, at: str, value: Any, number: int) -> None:
    if fields.is_percent(value) and number > 100:
        faults.invalid(at, value, "must not be greater than 100%")


def _rolling(faults: Faults, at: str, rolling: Object) -> None:
    unavailable = int_or_percent(faults, at + ".maxUnavailable", rolling.get("maxUnavailable", 0))
    surge = int_or_percent(faults, at + ".maxSurge", rolling.get("maxSurge", 0))
    if unavailable == 0 and surge == 0:
        faults.invalid(at + ".maxUnavailable", rolling.get("maxUnavailable", 0), "may not be 0 when `maxSurge` is 0")
    _at_most_all(faults, at + ".maxUnavailable", rolling.get("maxUnavailable"), unavailable)


def validate_deployment(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _counts(faults, spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    _selector_and_template(faults, spec)
    strategy = spec.get("strategy") or {}
    faults.enum("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
    if strategy.get("type") == "Recreate" and "rollingUpdate" in strategy:
        why = "may not be specified when strategy `type` is 'Recreate'"
        faults.forbidden("spec.strategy.rollingUpdate", why)
    elif strategy.get("type") == "RollingUpdate":
        _rolling(faults, "spec.strategy.rollingUpdate", strategy.get("rollingUpdate") or {})
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds", 0)
    if deadline is not None and deadline <= ready:
        faults.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def validate_replica_set(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _counts(faults, spec, "replicas", "minReadySeconds")
    _selector_and_template(faults, spec)


def validate_stateful_set(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _counts(faults, spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    _selector_and_template(faults, spec, "statefulset")
    faults.enum("spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel"))
    for field, policy in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
        faults.enum(f"spec.persistentVolumeClaimRetentionPolicy.{field}", policy, ("Delete", "Retain"))
    strategy = spec.get("updateStrategy") or {}
    faults.enum("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    faults.non_negative(
        "spec.updateStrategy.rollingUpdate.partition", (strategy.get("rollingUpdate") or {}).get("partition")
    )
    unavailable, at = (strategy.get("rollingUpdate") or {}).get("maxUnavailable"), "spec.updateStrategy.rollingUpdate"
    if unavailable is not None:
        number = int_or_percent(faults, at + ".maxUnavailable", unavailable)
        if number == 0:
            faults.invalid(at + ".maxUnavailable", unavailable, "cannot be 0")
        _at_most_all(faults, at + ".maxUnavailable", unavailable, number)


def validate_daemon_set(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _counts(faults, spec, "minReadySeconds", "revisionHistoryLimit")
    _selector_and_template(faults, spec, "daemonset")
    strategy = spec.get("updateStrategy") or {}
    faults.enum("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    if strategy.get("type") == "RollingUpdate":
        _rolling(faults, "spec.updateStrategy.rollingUpdate", strategy.get("rollingUpdate") or {})


def validate_selector_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("spec.selector", new["spec"].get("selector"), old["spec"].get("selector"))


def validate_stateful_set_update(faults: Faults, new: Object, old: Object) -> None:
    a = {k: v for k, v in new["spec"].items() if k not in _STATEFUL_MUTABLE}
    b = {k: v for k, v in old["spec"].items() if k not in _STATEFUL_MUTABLE}
    if a != b:
        faults.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
            "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        )


def validate_budget(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    if "minAvailable" in spec and "maxUnavailable" in spec:
        faults.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for field in ("minAvailable", "maxUnavailable"):
        if field in spec:
            _at_most_all(faults, "spec." + field, spec[field], int_or_percent(faults, "spec." + field, spec[field]))
    fields.label_selector(faults, "spec.selector", spec.get("selector"))
    if spec.get("unhealthyPodEvictionPolicy") is not None:
        policies = ("AlwaysAllow", "IfHealthyBudget")
        faults.enum("spec.unhealthyPodEvictionPolicy", spec["unhealthyPodEvictionPolicy"], policies)


def validate_revision(faults: Faults, obj: Object) -> None:
    faults.non_negative("revision", obj.get("revision", 0))
    if obj.get("data") is None:
        faults.required("data", "data is mandatory")


def validate_revision_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("data", new.get("data"), old.get("data"))


def validate_replication_controller(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _counts(faults, spec, "replicas", "minReadySeconds")
    selector, template = spec.get("selector") or {}, spec.get("template")
    fields.check_labels(faults, "spec.selector", selector)
    if not selector:
        faults.required("spec.selector")
    if template is None:
        faults.required("spec.template")
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selectors.from_map(selector).matches(labels):
        faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    pods.validate_template(faults, "spec.template", template)
    policy = (template.get("spec") or {}).get("restartPolicy", "Always")
    if policy != "Always":
        faults.unsupported("spec.template.spec.restartPolicy", policy, ("Always",))


def validate_pod_template(faults: Faults, obj: Object) -> None:
    pods.validate_template(faults, "template", obj.get("template") or {})
