"""Signing requests and CertificateSigningRequests as openssl and kubectl users make them."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cluster.machine import pki
from cluster.machine.signing import sign_request
from cluster.machinery.provider import ProviderError

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def request_pem(
    common_name: str,
    organizations: Sequence[str] = (),
    *,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    key: Key | None = None,
) -> bytes:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    subject = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    names: list[x509.GeneralName] = [*map(x509.DNSName, dns)]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)


class Issuer:
    """The host agent's part, in process; `down` while it does not answer."""

    def __init__(self, clock: Callable[[], float], ca: pki.KeyPair) -> None:
        self._clock = clock
        self._ca = ca
        self.down = False

    async def issue(self, signer: str, request_pem: str, usages: Sequence[str], lifetime_s: float) -> str:
        if self.down:
            raise ProviderError("the host agent does not answer")
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        try:
            return sign_request(self._ca, signer, request_pem.encode(), usages, lifetime_s, now).decode()
        except pki.PkiError as e:
            raise ProviderError(str(e), retriable=False) from e


def signing_request(name: str, signer: str, pem: bytes, usages: Sequence[str], **spec: Any) -> dict[str, Any]:
    wanted = {"signerName": signer, "request": base64.b64encode(pem).decode(), "usages": list(usages), **spec}
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    return {**kind, "metadata": {"name": name}, "spec": wanted}
