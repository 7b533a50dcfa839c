"""Validation of a Service's addresses and their families (pkg/apis/core/validation, KEP-563). Pure.

Which families a cluster has, and whether an address is free, is for the registry to say.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

FAMILIES = ("IPv4", "IPv6")
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
_SET = "may not change once set"
_ONE_PER_FAMILY = "may specify no more than one IP for each IP family"


def family_of(ip: str) -> str:
    """ "IPv4" or "IPv6" of a valid address."""
    return "IPv6" if ":" in ip else "IPv4"


def is_headless(spec: Object) -> bool:
    return list(spec.get("clusterIPs") or ()) == ["None"]


def validate_cluster_ips(faults: Faults, spec: Object) -> None:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, each alone and together."""
    if spec.get("type") == "ExternalName":
        return
    ips = spec.get("clusterIPs") or []
    _first_address(faults, spec.get("clusterIP") or "", ips)
    families = spec.get("ipFamilies") or []
    for i, family in enumerate(families):
        faults.enum(f"spec.ipFamilies[{i}]", family, FAMILIES)
        if family in families[:i]:
            faults.duplicate(f"spec.ipFamilies[{i}]", family)
    if spec.get("ipFamilyPolicy"):
        faults.enum("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], POLICIES)
    if _addresses(faults, ips):
        _per_family(faults, ips, families)


def _first_address(faults: Faults, ip: str, ips: list[str]) -> None:
    if ip and not ips:
        faults.required("spec.clusterIPs")
    elif ip and ips[0] != ip:
        faults.invalid("spec.clusterIPs", ips, "first value must match `clusterIP`")
    elif ips and not ip:
        faults.invalid("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified")


def _addresses(faults: Faults, ips: list[str]) -> bool:
    """Whether all of them are addresses (or the one "None"), so that their families can be judged."""
    good = True
    for i, ip in enumerate(ips):
        if i == 0 and ip == "None":
            if len(ips) > 1:
                faults.invalid("spec.clusterIPs", ips, "'None' must be the first and only value")
                good = False
            continue
        why = fields.ip_address(ip)
        faults.check(f"spec.clusterIPs[{i}]", ip, why)
        good = good and not why
    if len(ips) > 2:
        faults.invalid("spec.clusterIPs", ips, "may only hold up to 2 values")
    return good


def _per_family(faults: Faults, ips: list[str], families: list[str]) -> None:
    if len(ips) > 1 and len({ipaddress.ip_address(ip).version for ip in ips}) != len(ips):
        faults.invalid("spec.clusterIPs", ips, _ONE_PER_FAMILY)
    if ips == ["None"]:
        return
    for i, (ip, family) in enumerate(zip(ips, families, strict=False)):
        if family in FAMILIES and family_of(ip) != family:
            faults.invalid(f"spec.clusterIPs[{i}]", ip, f"expected an {family} value as indicated by `ipFamilies[{i}]`")


def validate_cluster_ips_update(faults: Faults, spec: Object, before: Object) -> None:
    """The first address and family stay; the second comes, and goes with policy SingleStack."""
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return
    headless, was_headless = is_headless(spec), is_headless(before)
    if not (headless and was_headless):
        _addresses_kept(faults, spec, before)
    if not headless and not was_headless:
        _families_kept(faults, spec, before)


def _addresses_kept(faults: Faults, spec: Object, before: Object) -> None:
    now, old = (list(s.get("clusterIPs") or ()) for s in (spec, before))
    if not now and old:
        faults.invalid("spec.clusterIPs[0]", now, "primary clusterIP can not be unset")
        return
    kept = len(old) if len(now) == len(old) else min(1, len(old))
    for i in range(kept):
        if now[i] != old[i]:
            faults.invalid(f"spec.clusterIPs[{i}]", now, _SET)
    if len(now) == 1 < len(old):
        _released(faults, spec, "clusterIP")


def _families_kept(faults: Faults, spec: Object, before: Object) -> None:
    now, old = (list(s.get("ipFamilies") or ()) for s in (spec, before))
    if not now:
        return  # given out anew from the addresses
    changed = now != old if len(now) == len(old) else now[:1] != old[:1]
    if changed and old:
        faults.invalid("spec.ipFamilies[0]", now, _SET)
    if len(now) == 1 < len(old):
        _released(faults, spec, "ipFamily")


def _released(faults: Faults, spec: Object, what: str) -> None:
    policy = spec.get("ipFamilyPolicy")
    if policy != "SingleStack":
        faults.invalid(
            "spec.ipFamilyPolicy", policy, f"must be set to 'SingleStack' when releasing the secondary {what}"
        )
