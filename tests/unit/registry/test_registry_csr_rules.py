"""What a write of status and of approval may do to a CertificateSigningRequest (pkg/registry/certificates)."""

from __future__ import annotations

from typing import Any

from cluster.api import validation
from cluster.api.scheme import SCHEME
from cluster.registry.csr import merge_status

CSRS = "certificatesigningrequests.certificates.k8s.io"


def condition(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": "why", **more}


def written(new: list[dict[str, Any]], old: list[dict[str, Any]], subresource: str) -> list[dict[str, Any]]:
    obj: dict[str, Any] = {"status": {"conditions": new, "certificate": "mine"}}
    merge_status(obj, {"status": {"conditions": old}}, subresource, 100.0)
    assert ("certificate" in obj["status"]) is (subresource == "status")
    return obj["status"].get("conditions", [])


def test_approval_brings_conditions_of_every_type_with_their_times() -> None:
    [patched] = written([condition("ApprovalPatch")], [], "approval")
    assert patched["lastUpdateTime"] == patched["lastTransitionTime"] == "1970-01-01T00:01:40Z"


def test_a_condition_keeps_since_when_it_is_so() -> None:
    old = condition("Approved", lastTransitionTime="1970-01-01T00:00:01Z")
    assert written([condition("Approved")], [old], "approval")[0]["lastTransitionTime"] == "1970-01-01T00:00:01Z"
    assert (
        written([condition("Approved", status="False")], [old], "approval")[0]["lastTransitionTime"]
        != "1970-01-01T00:00:01Z"
    )


def test_status_leaves_a_decision_as_it_was() -> None:
    old = condition("Approved", message="by ann", lastUpdateTime="x", lastTransitionTime="y")
    kept, added = written([condition("Approved", message="by bob"), condition("Extra")], [old], "status")
    assert kept == old and added["type"] == "Extra"


def test_status_does_not_decide_and_nobody_takes_a_decision_back() -> None:
    info = SCHEME.for_kind("certificates.k8s.io", "v1", "CertificateSigningRequest")
    assert info is not None

    def causes(new: list[dict[str, Any]], old: list[dict[str, Any]], subresource: str) -> list[str]:
        before, after = ({"metadata": {"name": "a"}, "status": {"conditions": c}} for c in (old, new))
        return [cause.message for cause in validation.update(info, after, before, subresource)]

    approved = [condition("Approved")]
    assert causes(approved, [], "approval") == []
    assert "updates may not add a condition of type" in causes(approved, [], "status")[0]
    for subresource in ("approval", "status"):
        assert "may not remove a condition of type" in causes([], approved, subresource)[0]
