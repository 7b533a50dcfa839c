"""Validation of RBAC kinds, priority classes, leases, events and nodes (pkg/apis/{rbac,scheduling,coordination,core}).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api.validation import fields, ips, metadata
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
_MAX_USER_PRIORITY = 1_000_000_000
_SYSTEM_CLASSES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _rules(faults: Faults, rules: list[Object], *, namespaced: bool) -> None:
    for i, r in enumerate(rules):
        at = f"rules[{i}]"
        if not r.get("verbs"):
            faults.required(at + ".verbs", "verbs must contain at least one value")
        urls = r.get("nonResourceURLs")
        if urls:
            if namespaced:
                why = "namespaced rules cannot apply to non-resource URLs"
                faults.invalid(at + ".nonResourceURLs", urls, why)
            if r.get("apiGroups") or r.get("resources") or r.get("resourceNames"):
                why = "rules cannot apply to both regular resources and non-resource URLs"
                faults.invalid(at + ".nonResourceURLs", urls, why)
            continue
        if not r.get("apiGroups"):
            faults.required(at + ".apiGroups", "resource rules must supply at least one api group")
        if not r.get("resources"):
            faults.required(at + ".resources", "resource rules must supply at least one resource")


def validate_role(faults: Faults, obj: Object) -> None:
    _rules(faults, obj.get("rules") or [], namespaced=True)


def validate_cluster_role(faults: Faults, obj: Object) -> None:
    _rules(faults, obj.get("rules") or [], namespaced=False)


def _binding(faults: Faults, obj: Object, kinds: tuple[str, ...], *, namespaced: bool) -> None:
    ref = obj.get("roleRef") or {}
    if ref.get("apiGroup") != _RBAC:
        faults.unsupported("roleRef.apiGroup", ref.get("apiGroup", ""), (_RBAC,))
    if ref.get("kind") not in kinds:
        faults.unsupported("roleRef.kind", ref.get("kind", ""), kinds)
    if not ref.get("name"):
        faults.required("roleRef.name")
    else:
        faults.check("roleRef.name", ref["name"], metadata.path_segment(ref["name"]))
    for i, s in enumerate(obj.get("subjects") or ()):
        at = f"subjects[{i}]"
        if not s.get("name"):
            faults.required(at + ".name")
        if s.get("kind") == "ServiceAccount":
            if s.get("apiGroup"):
                faults.unsupported(at + ".apiGroup", s["apiGroup"], ("",))
            if not namespaced and not s.get("namespace"):
                faults.required(at + ".namespace")
        elif s.get("kind") in ("User", "Group"):
            if s.get("apiGroup") != _RBAC:
                faults.unsupported(at + ".apiGroup", s.get("apiGroup", ""), (_RBAC,))
        else:
            faults.unsupported(at + ".kind", s.get("kind", ""), ("Group", "ServiceAccount", "User"))


def validate_role_binding(faults: Faults, obj: Object) -> None:
    _binding(faults, obj, ("ClusterRole", "Role"), namespaced=True)


def validate_cluster_role_binding(faults: Faults, obj: Object) -> None:
    _binding(faults, obj, ("ClusterRole",), namespaced=False)


def validate_binding_update(faults: Faults, new: Object, old: Object) -> None:
    if new.get("roleRef") != old.get("roleRef"):
        faults.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")


def validate_priority_class(faults: Faults, obj: Object) -> None:
    name, value = obj["metadata"].get("name", ""), obj.get("value", 0)
    if name.startswith("system-"):
        if _SYSTEM_CLASSES.get(name) != value:
            why = "priority class names with 'system-' prefix are reserved for system use only"
            faults.forbidden("metadata.name", why)
    elif value > _MAX_USER_PRIORITY:
        faults.forbidden("value", f"maximum allowed value of a user defined priority is {_MAX_USER_PRIORITY}")
    faults.enum("preemptionPolicy", obj.get("preemptionPolicy"), ("Never", "PreemptLowerPriority"))


def validate_priority_class_update(faults: Faults, new: Object, old: Object) -> None:
    if new.get("value", 0) != old.get("value", 0):
        faults.forbidden("value", "may not be changed in an update.")
    faults.immutable("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))


def validate_lease(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        faults.invalid("spec.leaseDurationSeconds", duration, "must be greater than 0")
    transitions = spec.get("leaseTransitions")
    if transitions is not None and transitions < 0:
        faults.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0")


def validate_event(faults: Faults, obj: Object) -> None:
    namespace = (obj.get("involvedObject") or {}).get("namespace", "")
    own = obj["metadata"].get("namespace", "")
    if namespace and namespace != own:
        faults.invalid("involvedObject.namespace", namespace, "does not match event.namespace")
    if not namespace and own not in ("default", "kube-system"):
        faults.invalid("involvedObject.namespace", namespace, "does not match event.namespace")


def validate_node(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    ips.validate_pod_cidrs(faults, spec)
    seen: set[tuple[Any, Any]] = set()
    for i, t in enumerate(spec.get("taints") or ()):
        at = f"spec.taints[{i}]"
        faults.check(at + ".key", t.get("key", ""), fields.qualified_name(t.get("key", "")))
        if t.get("value"):
            faults.check(at + ".value", t["value"], fields.label_value(t["value"]))
        if not t.get("effect"):
            faults.required(at + ".effect")
        else:
            faults.enum(at + ".effect", t["effect"], _EFFECTS)
        if (t.get("key"), t.get("effect")) in seen:
            faults.duplicate(at, t)
        seen.add((t.get("key"), t.get("effect")))


def validate_node_update(faults: Faults, new: Object, old: Object) -> None:
    a, b = new.get("spec") or {}, old.get("spec") or {}
    if b.get("podCIDRs") and a.get("podCIDRs") != b.get("podCIDRs"):
        faults.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
    if b.get("providerID") and a.get("providerID") != b.get("providerID"):
        faults.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')


def validate_definition(faults: Faults, crd: Object) -> None:
    from cluster.api.crd import definition_rules  # which uses the functions of this package

    definition_rules.validate(faults, crd)


def validate_definition_update(faults: Faults, new: Object, old: Object) -> None:
    from cluster.api.crd import definition_rules

    definition_rules.validate_update(faults, new, old)


def validate_definition_status(faults: Faults, new: Object, old: Object) -> None:
    from cluster.api.crd import definition_rules

    definition_rules.validate_status(faults, new)
