"""CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may make which signer's certificates.

IO only through the authorizer. Sources: plugin/pkg/admission/certificates of k8s.io/kubernetes.
"""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from cluster.registry.admission.request import Request
from cluster.registry.types import Attributes, Authorizer

Object = dict[str, Any]

_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
_MASTERS = "system:masters"


async def approval(request: Request, authorizer: Authorizer | None) -> None:
    """To approve or deny a request one needs the verb approve on its signer."""
    if request.subresource != "approval":
        return
    signer = ((request.old or {}).get("spec") or {}).get("signerName", "")
    if not await _may(request, authorizer, "approve", signer):
        raise request.forbid(f'user not permitted to approve requests with signerName "{signer}"')


async def signing(request: Request, authorizer: Authorizer | None) -> None:
    """To issue a certificate one needs the verb sign on the request's signer."""
    if request.subresource != "status":
        return
    before, after = ((o or {}).get("status") or {} for o in (request.old, request.obj))
    failed = [c for c in after.get("conditions") or () if c.get("type") == "Failed"]
    was_failed = [c for c in before.get("conditions") or () if c.get("type") == "Failed"]
    if before.get("certificate") == after.get("certificate") and len(failed) == len(was_failed):
        return
    signer = ((request.old or {}).get("spec") or {}).get("signerName", "")
    if not await _may(request, authorizer, "sign", signer):
        raise request.forbid(f'user not permitted to sign requests with signerName "{signer}"')


async def subject(request: Request) -> None:
    """Nobody asks for a certificate that is above RBAC."""
    spec = (request.obj or {}).get("spec") or {}
    if spec.get("signerName") != _CLIENT_SIGNER:
        return
    try:
        csr = x509.load_pem_x509_csr(base64.b64decode(spec.get("request") or ""))
    except ValueError as e:
        raise request.forbid(f"unable to parse csr: {e}") from e
    if any(a.value == _MASTERS for a in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)):
        raise request.forbid(f"use of {_CLIENT_SIGNER} signer with {_MASTERS} group is not allowed")


async def _may(request: Request, authorizer: Authorizer | None, verb: str, signer: str) -> bool:
    """On the signer itself or on all of its domain."""
    if authorizer is None:
        return True
    for name in (signer, signer.partition("/")[0] + "/*"):
        wanted = Attributes(verb, "certificates.k8s.io", "signers", name=name, version="*")
        if (await authorizer.authorize(request.ctx.user, wanted)).allowed:
            return True
    return False
