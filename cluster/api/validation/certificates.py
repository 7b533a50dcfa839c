"""Validation of CertificateSigningRequest (pkg/apis/certificates/validation).

Pure; parses the request with `cryptography`. A CSR's spec never changes; its status carries conditions and the
certificate, and who may write which of them is decided by the subresource (`registry/csr.py`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography import x509

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_USAGES = frozenset(
    ("signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
     "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
     "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
     "microsoft sgc", "netscape sgc")
)  # fmt: skip
_MIN_EXPIRATION_S = 600
_BEGIN = b"-----BEGIN "


def _request(faults: Faults, text: str) -> None:
    try:
        pem = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        pem = b""
    if not pem.lstrip().startswith(_BEGIN + b"CERTIFICATE REQUEST-----"):
        faults.invalid("spec.request", text, "PEM block type must be CERTIFICATE REQUEST")
        return
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except ValueError as e:
        faults.invalid("spec.request", text, f"asn1: {e}")
        return
    if not valid:
        faults.invalid("spec.request", text, "the signature of the request is not valid")


def signer_fault(name: str) -> str:
    """`domain/path`, as in `kubernetes.io/kube-apiserver-client`."""
    domain, slash, path = name.partition("/")
    if not slash or not path:
        return "must be a fully qualified domain and path of the form 'example.com/signer-name'"
    if "." not in domain:
        return "should be a domain with at least two segments separated by dots"
    why = fields.dns_subdomain(domain)
    return why or next((w for w in map(fields.dns_subdomain, path.split(".")) if w), "")


def validate_request(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _request(faults, spec.get("request", ""))
    usages = spec.get("usages") or []
    if not usages:
        faults.required("spec.usages")
    seen: set[str] = set()
    for i, usage in enumerate(usages):
        if usage not in _USAGES:
            faults.unsupported(f"spec.usages[{i}]", usage, _USAGES)
        if usage in seen:
            faults.duplicate(f"spec.usages[{i}]", usage)
        seen.add(usage)
    signer = spec.get("signerName", "")
    if not signer:
        faults.required("spec.signerName")
    elif signer == "kubernetes.io/legacy-unknown":
        faults.invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version")
    else:
        faults.check("spec.signerName", signer, signer_fault(signer))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _MIN_EXPIRATION_S:
        why = f"may not specify a duration less than {_MIN_EXPIRATION_S} seconds (10 minutes)"
        faults.invalid("spec.expirationSeconds", seconds, why)
    _conditions(faults, obj)


def _conditions(faults: Faults, obj: Object) -> None:
    """Approved and Denied exclude each other; each type once."""
    seen: set[str] = set()
    for i, c in enumerate((obj.get("status") or {}).get("conditions") or ()):
        at, kind = f"status.conditions[{i}]", c.get("type", "")
        if not kind:
            faults.required(at + ".type")
        status = c.get("status")
        if kind in ("Approved", "Denied", "Failed"):
            if status != "True":
                faults.unsupported(at + ".status", status, ("True",))
        else:
            faults.enum(at + ".status", status, ("False", "True", "Unknown"))
        if kind in seen:
            faults.duplicate(at + ".type", kind)
        if {kind, *seen} >= {"Approved", "Denied"}:
            faults.invalid(at + ".type", kind, "Approved and Denied conditions are mutually exclusive")
        seen.add(kind)


def validate_status(faults: Faults, new: Object, old: Object) -> None:
    """As `validate_approval`, and no decision is made: that is for the subresource `approval` (RBAC: `approve`)."""
    validate_approval(faults, new, old)
    for kind in ("Approved", "Denied"):
        if _of_kind(new, kind) > _of_kind(old, kind):
            faults.forbidden("status.conditions", f"updates may not add a condition of type {_shown(kind)}")


def _of_kind(obj: Object, kind: str) -> int:
    return sum(c.get("type") == kind for c in (obj.get("status") or {}).get("conditions") or ())


def validate_approval(faults: Faults, new: Object, old: Object) -> None:
    """A decision, once made, stays; so does a certificate, once issued."""
    _conditions(faults, new)
    for kind in ("Approved", "Denied", "Failed"):
        if _of_kind(new, kind) < _of_kind(old, kind):
            faults.forbidden("status.conditions", f"updates may not remove a condition of type {_shown(kind)}")
    before, after = ((o.get("status") or {}).get("certificate") for o in (old, new))
    if before and after != before:
        faults.forbidden("status.certificate", "updates may not change an issued certificate")


def _shown(text: str) -> str:
    return f'"{text}"'
