"""Kubernetes' own certificate signers: which requests each of them signs, and for what.

Pure: (parsed request, usages) -> "" or why not. Sources: KEP-1513, k8s.io/kubernetes pkg/controller/certificates/signer
and pkg/apis/certificates/helpers.go, whose sentences these are. Who may ask and approve is admission's matter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

API_CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
SIGNERS = (API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING)

SIGNATURE, ENCIPHERMENT = "digital signature", "key encipherment"
CLIENT_AUTH, SERVER_AUTH = "client auth", "server auth"

_NODES = "system:nodes"
_NODE_PREFIX = "system:node:"


def signing_fault(signer: str, request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why `signer` does not sign this request; "" when it does. Raises ValueError for a signer that is not one here."""
    if signer == API_CLIENT:
        return _client_usages(usages)
    if signer == KUBELET_CLIENT:
        return kubelet_client_fault(request, usages)
    if signer == KUBELET_SERVING:
        return _kubelet_serving_fault(request, usages)
    raise ValueError(f"no signer {signer!r} runs here; there are {', '.join(SIGNERS)}")


def common_name(request: x509.CertificateSigningRequest) -> str:
    """The last one, as Go's pkix.Name has it; "" without any."""
    return ["", *_values(request, NameOID.COMMON_NAME)][-1]


def organizations(request: x509.CertificateSigningRequest) -> list[str]:
    return _values(request, NameOID.ORGANIZATION_NAME)


def alternative_names(request: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    try:
        return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def kubelet_client_fault(request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """A node's identity at the API server: named as a node, with no other names."""
    why = _node_subject(request)
    if why:
        return why
    for kind, word in ((x509.DNSName, "DNS"), (x509.RFC822Name, "Email"), (x509.IPAddress, "IP"), (_URI, "URI")):
        if _names(request, kind):
            return f"{word} subjectAltNames are not allowed"
    return _exact_usages(request, usages, CLIENT_AUTH)


def _kubelet_serving_fault(request: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """A node's server: at least one address or name to be reached at."""
    why = _node_subject(request)
    if why:
        return why
    if not _names(request, x509.DNSName) and not _names(request, x509.IPAddress):
        return "DNS or IP subjectAltName is required"
    for kind, word in ((x509.RFC822Name, "Email"), (_URI, "URI")):
        if _names(request, kind):
            return f"{word} subjectAltNames are not allowed"
    return _exact_usages(request, usages, SERVER_AUTH)


_URI = x509.UniformResourceIdentifier


def _node_subject(request: x509.CertificateSigningRequest) -> str:
    if organizations(request) != [_NODES]:
        return "subject organization is not system:nodes"
    if not common_name(request).startswith(_NODE_PREFIX):
        return "subject common name does not begin with system:node: "
    return ""


def _client_usages(usages: Collection[str]) -> str:
    for usage in usages:
        if usage not in (SIGNATURE, ENCIPHERMENT, CLIENT_AUTH):
            return f"invalid usage for client certificate: {usage}"
    return "" if CLIENT_AUTH in usages else f"missing required usage for client certificate: {CLIENT_AUTH}"


def _exact_usages(request: x509.CertificateSigningRequest, usages: Collection[str], purpose: str) -> str:
    """The purpose and a signature; encipherment belongs to RSA keys alone, whose owners may do without it too."""
    bare = {SIGNATURE, purpose}
    rsa_too = bare | {ENCIPHERMENT}
    given = set(usages)
    allowed = (rsa_too, bare) if isinstance(request.public_key(), rsa.RSAPublicKey) else (bare, rsa_too)
    return "" if given in allowed else f"usages did not match [{' '.join(sorted(allowed[0]))}]"


def _names(request: x509.CertificateSigningRequest, kind: Any) -> list[Any]:
    found = alternative_names(request)
    return found.get_values_for_type(kind) if found is not None else []


def _values(request: x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(a.value) for a in request.subject.get_attributes_for_oid(oid)]
