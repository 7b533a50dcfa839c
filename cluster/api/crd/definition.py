"""CustomResourceDefinitions themselves: defaults, names and conditions. What is refused: `definition_rules`.

Pure; the time is an argument. Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions`, `pkg/controller/status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.api import meta
from cluster.api.crd import definition_rules

Object = dict[str, Any]

FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


def default(crd: Object) -> None:
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    conversion = spec.setdefault("conversion", {})
    conversion.setdefault("strategy", "None")
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service is not None:
        service.setdefault("port", 443)


def on_create(crd: Object, now: float) -> None:
    stored = definition_rules.storage_version(crd)
    crd["status"] = {
        "acceptedNames": {"kind": "", "plural": ""},
        "conditions": [],
        "storedVersions": [stored] if stored else [],
    }


def on_update(new: Object, old: Object) -> None:
    """A new storage version is one that objects may be stored in from now on."""
    stored = definition_rules.storage_version(new)
    status = new.get("status") or {}
    known = status.get("storedVersions") or []
    if stored and stored not in known:
        new["status"] = {**status, "storedVersions": [*known, stored]}


def on_delete(crd: Object, now: float) -> None:
    """The first deletion only marks: the instances go first."""
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
    set_condition(crd, "Terminating", True, "InstanceDeletionPending", message, now)


# --- names and conditions -------------------------------------------------------------------------------------------


def is_established(crd: Object) -> bool:
    return meta.is_true(crd, "Established")


def is_terminating(crd: Object) -> bool:
    return "deletionTimestamp" in crd["metadata"]


def set_condition(crd: Object, kind: str, holds: bool, reason: str, message: str, now: float) -> bool:
    """In place; whether anything changed."""
    conditions = crd.setdefault("status", {}).setdefault("conditions", [])
    new = {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
    return meta.set_condition(conditions, new, now)


def accept_names(crd: Object, others: Iterable[Object], now: float) -> bool:
    """Give the definition those of its names that no other of its group has; whether its status changed, in place.

    Of the `others`, names count that were given to them.
    """
    spec, status = crd["spec"], crd.setdefault("status", {})
    taken = _taken(o for o in others if o["spec"]["group"] == spec["group"])
    wanted = spec["names"]
    accepted = dict(status.get("acceptedNames") or {})
    reason, message = "NoConflicts", "no conflicts found"
    for field, label in (("plural", "Plural"), ("singular", "Singular"), ("kind", "Kind"), ("listKind", "ListKind")):
        name = wanted.get(field) or ""
        pool = taken["kinds"] if field in ("kind", "listKind") else taken["resources"]
        if name and name in pool:
            reason, message = f"{label}Conflict", f'"{name}" is already in use'
        elif name:
            accepted[field] = name
    short = list(wanted.get("shortNames") or ())
    clash = [n for n in short if n in taken["resources"]]
    if clash:
        reason = "ShortNamesConflict"
        message = ", ".join(f'"{n}" is already in use' for n in clash)
    for field, value in (("shortNames", [] if clash else short), ("categories", wanted.get("categories") or [])):
        accepted.pop(field, None)
        if value:
            accepted[field] = list(value)
    changed: bool = status.get("acceptedNames") != accepted
    status["acceptedNames"] = accepted
    fine = reason == "NoConflicts"
    changed |= set_condition(crd, "NamesAccepted", fine, reason, message, now)
    if fine and not is_established(crd) and definition_rules.bad_bundle(crd):
        message = "The conversion webhook CABundle is invalid"
        changed |= set_condition(crd, "Established", False, "InvalidCABundle", message, now)
    elif fine and not is_established(crd):
        message = "the initial names have been accepted"
        changed |= set_condition(crd, "Established", True, "InitialNamesAccepted", message, now)
    elif not fine and not is_established(crd):
        message = "not all names are accepted"
        changed |= set_condition(crd, "Established", False, "NotAccepted", message, now)
    return changed


def _taken(others: Iterable[Object]) -> dict[str, set[str]]:
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        names = (other.get("status") or {}).get("acceptedNames") or {}
        resources.update(n for n in (names.get("plural"), names.get("singular"), *(names.get("shortNames") or ())) if n)
        kinds.update(n for n in (names.get("kind"), names.get("listKind")) if n)
    return {"resources": resources, "kinds": kinds}


def approve(crd: Object, now: float) -> bool:
    """The condition of groups that belong to Kubernetes; whether it changed, in place."""
    if not definition_rules.protected(crd["spec"]["group"]):
        return False
    said = (crd["metadata"].get("annotations") or {}).get(definition_rules.APPROVED, "")
    state, why = definition_rules.approval(said)
    reason = {"approved": "ApprovedAnnotation", "unapproved": "UnapprovedAnnotation", "missing": "MissingAnnotation"}
    conforms, kind = state == "approved", "KubernetesAPIApprovalPolicyConformant"
    return set_condition(crd, kind, conforms, reason.get(state, "InvalidAnnotation"), why, now)
