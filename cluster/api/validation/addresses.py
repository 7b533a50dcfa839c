"""Validation of IPAddress and ServiceCIDR (pkg/apis/networking/validation, KEP-1880). Pure."""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_ONE_PER_FAMILY = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
_IMMUTABLE = "field is immutable"


def ip_name(name: str) -> str:
    """Why `name` is no IPAddress's name; "" when it is one: an address has one spelling."""
    try:
        canonical = str(ipaddress.ip_address(name))
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return "" if canonical == name else f'must be in canonical form ("{canonical}")'


def validate_ip_address(faults: Faults, obj: Object) -> None:
    parent = (obj.get("spec") or {}).get("parentRef")
    if parent is None:
        faults.required("spec.parentRef")
        return
    if parent.get("group"):
        faults.check("spec.parentRef.group", parent["group"], fields.dns_subdomain(parent["group"]))
    for field in ("resource", "name"):
        if not parent.get(field):
            faults.required(f"spec.parentRef.{field}")
    for field in ("resource", "name", "namespace"):
        value = parent.get(field) or ""
        faults.check(f"spec.parentRef.{field}", value, "may not contain '/'" if "/" in value else "")


def validate_ip_address_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("spec.parentRef", (new.get("spec") or {}).get("parentRef"), (old["spec"]).get("parentRef"))


def validate_service_cidr(faults: Faults, obj: Object) -> None:
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        faults.required("spec.cidrs", "at least one CIDR required")
        return
    if len(cidrs) > 2:
        faults.invalid("spec.cidrs", cidrs, "may only hold up to 2 values")
        return
    versions = []
    for i, cidr in enumerate(cidrs):
        try:
            network = ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            faults.invalid(f"spec.cidrs[{i}]", cidr, _CIDR)
            continue
        if "/" not in cidr:
            faults.invalid(f"spec.cidrs[{i}]", cidr, _CIDR)
        elif str(network) != cidr:
            faults.invalid(f"spec.cidrs[{i}]", cidr, f'must be in canonical form ("{network}")')
        versions.append(network.version)
    if len(versions) == 2 and versions[0] == versions[1]:
        faults.invalid("spec.cidrs", cidrs, _ONE_PER_FAMILY)


def validate_service_cidr_update(faults: Faults, new: Object, old: Object) -> None:
    """A range stays; one of the other family may be added behind it."""
    now, before = ((o.get("spec") or {}).get("cidrs") or [] for o in (new, old))
    if len(now) != len(before) and not (len(before) == 1 and len(now) == 2):
        faults.invalid("spec.cidrs", now, _IMMUTABLE)
        return
    for i, cidr in enumerate(before):
        if now[i] != cidr:
            faults.invalid(f"spec.cidrs[{i}]", now[i], _IMMUTABLE)
