"""What becomes of a CertificateSigningRequest: approved by itself, signed, or swept away. Pure.

Sources: k8s.io/kubernetes pkg/controller/certificates (approver/sarapprove.go, signer/signer.go, cleaner/cleaner.go).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography import x509

from cluster.api import signers
from cluster.api.meta import condition, parse_time, rfc3339
from cluster.machinery.client import Obj

_MIN_LIFETIME_S = 600.0
_KEEP_DECIDED_S = 3600.0
_KEEP_PENDING_S = 86400.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Approve when the requester may create `certificatesigningrequests/<subresource>`; `message` says so."""

    subresource: str
    message: str


_SELF = Grant("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
_NODE = Grant("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


def pem_of(csr: Obj) -> bytes:
    return base64.b64decode(csr["spec"].get("request") or "")


def grants(csr: Obj) -> list[Grant]:
    """By what this request could be approved without a human, in the order they are tried; none once it is decided."""
    spec, status = csr["spec"], csr.get("status") or {}
    if spec.get("signerName") != signers.KUBELET_CLIENT or status.get("certificate") or decided(csr):
        return []
    request = x509.load_pem_x509_csr(pem_of(csr))
    if signers.kubelet_client_fault(request, spec.get("usages") or ()):
        return []
    own = spec.get("username") == signers.common_name(request)
    return [_SELF, _NODE] if own else [_NODE]


def decided(csr: Obj) -> bool:
    return _is(csr, "Approved") or _is(csr, "Denied")


def wants_certificate(csr: Obj) -> bool:
    """Approved, for a signer that runs here, and neither issued nor given up."""
    return (
        csr["spec"].get("signerName") in signers.SIGNERS
        and _is(csr, "Approved")
        and not _is(csr, "Denied")
        and not _is(csr, "Failed")
        and not (csr.get("status") or {}).get("certificate")
    )


def lifetime_s(csr: Obj, longest_s: float) -> float:
    """As asked by expirationSeconds, within ten minutes and what the cluster gives."""
    asked = csr["spec"].get("expirationSeconds")
    return longest_s if asked is None else max(min(float(asked), longest_s), _MIN_LIFETIME_S)


def with_condition(csr: Obj, kind: str, reason: str, message: str, now: float) -> Obj:
    """The status with one more condition; the shared object is left alone."""
    stamp = rfc3339(now)
    added = {"type": kind, "status": "True", "reason": reason, "message": message}
    status = csr.get("status") or {}
    conditions = [*(status.get("conditions") or ()), {**added, "lastUpdateTime": stamp, "lastTransitionTime": stamp}]
    return {**csr, "status": {**status, "conditions": conditions}}


def due_in_s(csr: Obj, now: float) -> float:
    """Until the request is to be deleted (0 or less: now): decided ones after an hour, pending ones and those that were
    approved but never signed after a day, and any whose certificate has expired.
    """
    certificate = (csr.get("status") or {}).get("certificate")
    due = [parse_time(csr["metadata"]["creationTimestamp"]) + _KEEP_PENDING_S] if not certificate else []
    for kind in ("Denied", "Failed", *(("Approved",) if certificate else ())):
        found = condition(csr, kind)
        if found is not None:
            due.append(_updated(csr, found) + _KEEP_DECIDED_S)
    if certificate and (expiry := _expiry(certificate)) is not None:
        due.append(expiry)
    return min(due) - now if due else _KEEP_PENDING_S


def _updated(csr: Obj, found: Obj) -> float:
    stamp = found.get("lastUpdateTime") or found.get("lastTransitionTime") or csr["metadata"]["creationTimestamp"]
    return parse_time(stamp)


def _expiry(certificate: str) -> float | None:
    """None for what another signer wrote that is no certificate."""
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(certificate)).not_valid_after_utc.timestamp()
    except ValueError:
        return None


def _is(csr: Obj, kind: str) -> bool:
    found = condition(csr, kind)
    return found is not None and found.get("status", "True") == "True"
