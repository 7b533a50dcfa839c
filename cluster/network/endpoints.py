"""From the EndpointSlices of a Service to the endpoints that may get new connections. Pure.

Rules are Kubernetes' (KEP-1669, KEP-1672): a ready endpoint; when there is none, one that is terminating but still
serves. A condition that is absent counts as Kubernetes says: `ready` unset means ready, `serving` unset means what
`ready` says, `terminating` unset means not. `publishNotReadyAddresses` has been applied by whoever made the slice.

Invariant: the result is sorted and without duplicates, so equal input in any order gives equal rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a connection may end. `local`: on the node the rules are made for."""

    ip: str
    port: int
    local: bool = False


def service_key(slice_: Obj) -> str:
    """`namespace/name` of the Service that owns a slice; "" for one that names none."""
    meta = slice_.get("metadata", {})
    name = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return f"{meta.get('namespace', '')}/{name}" if name else ""


def is_ready(endpoint: Obj) -> bool:
    ready = (endpoint.get("conditions") or {}).get("ready")
    return ready is None or bool(ready)


def is_serving_terminating(endpoint: Obj) -> bool:
    conditions = endpoint.get("conditions") or {}
    serving = conditions.get("serving")
    return (is_ready(endpoint) if serving is None else bool(serving)) and bool(conditions.get("terminating"))


def usable(slices: Iterable[Obj], port_name: str, protocol: str, node_name: str) -> list[Endpoint]:
    """The endpoints of one Service port that new connections may go to."""
    ready, terminating = _candidates(slices, port_name, protocol, node_name)
    return sorted(ready or terminating)


def usable_local(slices: Iterable[Obj], port_name: str, protocol: str, node_name: str) -> list[Endpoint]:
    """The same among the endpoints on this node alone (traffic policy Local)."""
    ready, terminating = _candidates(slices, port_name, protocol, node_name)
    return sorted([e for e in ready if e.local] or [e for e in terminating if e.local])


def _candidates(
    slices: Iterable[Obj], port_name: str, protocol: str, node_name: str
) -> tuple[set[Endpoint], set[Endpoint]]:
    ready: set[Endpoint] = set()
    terminating: set[Endpoint] = set()
    for slice_ in slices:
        if slice_.get("addressType", "IPv4") != "IPv4":
            continue
        for port in slice_.get("ports") or ():
            if (port.get("name") or "") != port_name or port.get("protocol", "TCP") != protocol:
                continue
            number = port.get("port")
            if not number:
                continue
            for endpoint in slice_.get("endpoints") or ():
                into = ready if is_ready(endpoint) else terminating if is_serving_terminating(endpoint) else None
                if into is None:
                    continue
                local = endpoint.get("nodeName") == node_name
                # All addresses of one endpoint are the same pod: the first is the one to use (API documentation).
                for address in (endpoint.get("addresses") or ())[:1]:
                    if is_ipv4(address):
                        into.add(Endpoint(address, int(number), local))
    return ready, terminating - ready


def is_ipv4(address: str) -> bool:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return True
