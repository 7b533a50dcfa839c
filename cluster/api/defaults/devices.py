"""Defaults of dynamic resource allocation's claims (pkg/apis/resource/v1/defaults.go). Pure, in place."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def default_claim(obj: Object) -> None:
    _default_requests(obj.get("spec") or {})


def default_claim_template(obj: Object) -> None:
    _default_requests((obj.get("spec") or {}).get("spec") or {})


def _default_requests(spec: Object) -> None:
    for request in (spec.get("devices") or {}).get("requests") or ():
        wanted = [request["exactly"]] if request.get("exactly") else request.get("firstAvailable") or []
        for w in wanted:
            w.setdefault("allocationMode", "ExactCount")
            if w["allocationMode"] == "ExactCount":
                w.setdefault("count", 1)
