"""Where a pod may run: affinity, spreading, tolerations, gates (pkg/apis/core/validation).

Pure.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_TOLERATION_OPERATORS = ("Equal", "Exists", "Gt", "Lt")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")


def validate_placement(faults: Faults, at: str, spec: Object) -> None:
    if spec.get("tolerations"):
        _tolerations(faults, at + ".tolerations", spec["tolerations"])
    if spec.get("affinity"):
        _affinity(faults, at + ".affinity", spec["affinity"])
    if spec.get("topologySpreadConstraints"):
        _spread(faults, at + ".topologySpreadConstraints", spec["topologySpreadConstraints"])
    _gates(faults, at, spec)
    if spec.get("preemptionPolicy"):
        faults.enum(at + ".preemptionPolicy", spec["preemptionPolicy"], ("Never", "PreemptLowerPriority"))


def _tolerations(faults: Faults, at: str, tolerations: list[Object]) -> None:
    for i, t in enumerate(tolerations):
        where = f"{at}[{i}]"
        if t.get("key"):
            faults.check(where + ".key", t["key"], fields.qualified_name(t["key"]))
        elif t.get("operator") != "Exists":
            why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            faults.invalid(where + ".operator", t.get("operator", ""), why)
        if t.get("tolerationSeconds") is not None and t.get("effect") != "NoExecute":
            why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            faults.invalid(where + ".effect", t.get("effect", ""), why)
        operator = t.get("operator") or "Equal"
        if operator not in _TOLERATION_OPERATORS:
            faults.unsupported(where + ".operator", operator, ("Equal", "Exists"))
        elif operator == "Exists" and t.get("value"):
            faults.invalid(where + ".operator", t["value"], "value must be empty when `operator` is 'Exists'")
        elif operator == "Equal" and t.get("value"):
            faults.check(where + ".value", t["value"], fields.label_value(t["value"]))
        if t.get("effect"):
            faults.enum(where + ".effect", t["effect"], _EFFECTS)


# --- affinity -------------------------------------------------------------------------------------------------------


def _affinity(faults: Faults, at: str, affinity: Object) -> None:
    node = affinity.get("nodeAffinity") or {}
    if node.get(_REQUIRED) is not None:
        node_selector(faults, f"{at}.nodeAffinity.{_REQUIRED}", node[_REQUIRED])
    for i, term in enumerate(node.get(_PREFERRED) or ()):
        where = f"{at}.nodeAffinity.{_PREFERRED}[{i}]"
        _weight(faults, where, term)
        _node_term(faults, where + ".preference", term.get("preference") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        for i, term in enumerate(terms.get(_REQUIRED) or ()):
            _pod_term(faults, f"{at}.{kind}.{_REQUIRED}[{i}]", term)
        for i, term in enumerate(terms.get(_PREFERRED) or ()):
            where = f"{at}.{kind}.{_PREFERRED}[{i}]"
            _weight(faults, where, term)
            _pod_term(faults, where + ".podAffinityTerm", term.get("podAffinityTerm") or {})


def _weight(faults: Faults, at: str, term: Object) -> None:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        faults.invalid(at + ".weight", weight, "must be in the range 1-100")


def node_selector(faults: Faults, at: str, selector: Object) -> None:
    """Of pods that require a node, and of volumes that are on one."""
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        faults.required(at + ".nodeSelectorTerms", "must have at least one node selector term")
    for i, term in enumerate(terms or ()):
        _node_term(faults, f"{at}.nodeSelectorTerms[{i}]", term)


def _node_term(faults: Faults, at: str, term: Object) -> None:
    for i, r in enumerate(term.get("matchExpressions") or ()):
        _requirement(faults, f"{at}.matchExpressions[{i}]", r)
    for i, r in enumerate(term.get("matchFields") or ()):
        where, values = f"{at}.matchFields[{i}]", r.get("values") or ()
        if r.get("operator") not in ("In", "NotIn"):
            faults.invalid(where + ".operator", r.get("operator", ""), "not a valid selector operator")
        elif len(values) != 1:
            why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            faults.required(where + ".values", why)
        if r.get("key") != "metadata.name":
            faults.invalid(where + ".key", r.get("key", ""), "not a valid field selector key")


def _requirement(faults: Faults, at: str, r: Object) -> None:
    operator, values = r.get("operator", ""), r.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            faults.required(at + ".values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            faults.forbidden(at + ".values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            faults.required(at + ".values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
    else:
        faults.invalid(at + ".operator", operator, "not a valid selector operator")
    faults.check(at + ".key", r.get("key", ""), fields.qualified_name(r.get("key", "")))


def _pod_term(faults: Faults, at: str, term: Object) -> None:
    for field in ("labelSelector", "namespaceSelector"):
        fields.label_selector(faults, f"{at}.{field}", term.get(field))
    for i, name in enumerate(term.get("namespaces") or ()):
        faults.check(f"{at}.namespaces[{i}]", name, fields.dns_label(name))
    key = term.get("topologyKey")
    if not key:
        faults.required(at + ".topologyKey", "can not be empty")
    else:
        faults.check(at + ".topologyKey", key, fields.qualified_name(key))


# --- spreading, gates -----------------------------------------------------------------------------------------------


def _spread(faults: Faults, at: str, constraints: list[Object]) -> None:
    left = Counter((c.get("topologyKey", ""), c.get("whenUnsatisfiable", "")) for c in constraints)
    for i, c in enumerate(constraints):
        where = f"{at}[{i}]"
        key, action = c.get("topologyKey", ""), c.get("whenUnsatisfiable", "")
        left[key, action] -= 1
        if c.get("maxSkew", 0) <= 0:
            faults.invalid(where + ".maxSkew", c.get("maxSkew", 0), "must be greater than zero")
        if not key:
            faults.required(where + ".topologyKey", "can not be empty")
        faults.enum(where + ".whenUnsatisfiable", action, _UNSATISFIABLE)
        if left[key, action]:
            faults.duplicate(where + ".{topologyKey, whenUnsatisfiable}", f"{{{key}, {action}}}")
        _min_domains(faults, where + ".minDomains", c.get("minDomains"), action)
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if c.get(field) is not None:
                faults.enum(f"{where}.{field}", c[field], ("Honor", "Ignore"))
        fields.label_selector(faults, where + ".labelSelector", c.get("labelSelector"))


def _min_domains(faults: Faults, at: str, wanted: int | None, action: str) -> None:
    if wanted is None:
        return
    if wanted <= 0:
        faults.invalid(at, wanted, "must be greater than zero")
    if action != "DoNotSchedule":
        why = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
        faults.invalid(at, wanted, why)


def _gates(faults: Faults, at: str, spec: Object) -> None:
    seen: set[str] = set()
    for i, gate in enumerate(spec.get("schedulingGates") or ()):
        where, name = f"{at}.schedulingGates[{i}]", gate.get("name", "")
        faults.check(where, name, fields.qualified_name(name))
        if name in seen:
            faults.duplicate(where, name)
        seen.add(name)
    for i, gate in enumerate(spec.get("readinessGates") or ()):
        condition = gate.get("conditionType", "")
        faults.check(f"{at}.readinessGates[{i}].conditionType", condition, fields.qualified_name(condition))
