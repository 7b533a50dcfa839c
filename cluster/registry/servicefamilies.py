"""Which IP families a Service gets: what it asks for, made whole by what the cluster has (KEP-563).

Pure, in place, before validation. The policy is a wish with consequences: SingleStack releases the second family,
PreferDualStack takes one where there is one, RequireDualStack refuses to live without. A PreferDualStack Service that
does not change its families is never given or deprived of one by another update: only its owner decides that.

Source: pkg/registry/core/service/storage/alloc.go (initIPFamilyFields) and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.errors import Cause
from cluster.api.validation.fields import Faults
from cluster.api.validation.service_ips import FAMILIES, family_of, validate_cluster_ips

Object = dict[str, Any]

_PER_FAMILY = (("clusterIPs", "cluster IPs", "cluster IP"), ("ipFamilies", "IP families", "IP family"))
_NO_DUAL_STACK = "this cluster is not configured for dual-stack services"


def settle(service: Object, old: Object | None, configured: Sequence[str]) -> list[Cause]:
    """Fill in ipFamilyPolicy and ipFamilies; why that cannot be, if it cannot. `configured`: the cluster's families,
    its first one first."""
    spec, before = service["spec"], (old or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return []
    if old is None and spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if old is not None and _undecided(spec, before):
        return []
    unselected = spec.get("clusterIP") == "None" and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        fallback = "RequireDualStack" if unselected else "SingleStack"
        spec["ipFamilyPolicy"] = before.get("ipFamilyPolicy") or fallback
    faults = Faults()
    validate_cluster_ips(faults, spec)
    if not faults.causes:
        if old is not None:
            _release(faults, spec, before)
        _agree(faults, spec)
        _infer(faults, spec, configured)
    if not faults.causes:
        _complete(faults, spec, FAMILIES if unselected else configured, configured)
    return faults.causes


def _undecided(spec: Object, before: Object) -> bool:
    """Still PreferDualStack, with the families it had."""
    if spec.get("type") != before.get("type") or spec.get("ipFamilyPolicy") != "PreferDualStack":
        return False
    if before.get("ipFamilyPolicy") != "PreferDualStack":
        return False
    return all((spec.get(field) or []) == (before.get(field) or []) for field in ("clusterIPs", "ipFamilies"))


def _release(faults: Faults, spec: Object, before: Object) -> None:
    """SingleStack lets the second go; anything else must keep it."""
    for field, _, one in _PER_FAMILY:
        now, had = spec.get(field) or [], before.get(field) or []
        if spec["ipFamilyPolicy"] == "SingleStack":
            if now == had and len(now) > 1:
                spec[field] = now[:1]
        elif now and len(now) < len(had):
            why = f"must be 'SingleStack' to release the secondary {one}"
            faults.invalid("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], why)


def _agree(faults: Faults, spec: Object) -> None:
    for field, many, _ in _PER_FAMILY:
        if spec["ipFamilyPolicy"] == "SingleStack" and len(spec.get(field) or ()) == 2:
            why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified"
            faults.invalid("spec.ipFamilyPolicy", "SingleStack", why)


def _infer(faults: Faults, spec: Object, configured: Sequence[str]) -> None:
    """The families of addresses that came without."""
    families = list(spec.get("ipFamilies") or ())
    ips = spec.get("clusterIPs") or []
    for i, ip in enumerate(ips):
        if ip == "None" or i < len(families):
            continue
        if family_of(ip) in configured:
            families.append(family_of(ip))
        else:
            faults.invalid(f"spec.clusterIPs[{i}]", ips, f"{family_of(ip)} is not configured on this cluster")
    if families:
        spec["ipFamilies"] = families


def _complete(faults: Faults, spec: Object, allowed: Sequence[str], configured: Sequence[str]) -> None:
    """`allowed`: without a selector a headless Service may have any family: whoever makes its endpoints knows why."""
    policy, families = spec["ipFamilyPolicy"], list(spec.get("ipFamilies") or ())
    if policy == "RequireDualStack" and len(allowed) < 2:
        faults.invalid("spec.ipFamilyPolicy", policy, _NO_DUAL_STACK)
    for i, family in enumerate(families):
        if family not in allowed:
            faults.invalid(f"spec.ipFamilies[{i}]", family, "not configured on this cluster")
    if faults.causes:
        return
    families = families or [configured[0]]
    if policy != "SingleStack" and len(families) == 1:
        families += [family for family in allowed if family not in families]
    spec["ipFamilies"] = families
