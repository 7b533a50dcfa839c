"""What the cluster's CA makes of an approved CertificateSigningRequest.

Pure: bytes in, bytes out. The holder of the CA asks the signers' rules once more and has the last word: whoever reaches
it with a request of his own gets no more than a signer would give, and never a name that sk8's own parts, the store or
the front proxy are known by, nor system:masters.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from cluster.api import signers
from cluster.machine.pki import BACKDATE, KeyPair, PkiError

_MIN_RSA_BITS = 2048
_PURPOSES = {
    signers.CLIENT_AUTH: ExtendedKeyUsageOID.CLIENT_AUTH,
    signers.SERVER_AUTH: ExtendedKeyUsageOID.SERVER_AUTH,
}


def sign_request(
    ca: KeyPair, signer: str, request_pem: bytes, usages: Collection[str], lifetime_s: float, now: dt.datetime
) -> bytes:
    """The PEM certificate: subject and alternative names as asked, for `usages`, ended by the CA's own end at the
    latest. Raises PkiError saying why not.
    """
    request = _parsed(request_pem)
    _check_key(request)
    _check_reserved(request)
    try:
        why = signers.signing_fault(signer, request, usages)
    except ValueError as e:
        raise PkiError(str(e)) from e
    if why:
        raise PkiError(why)
    return _certificate(ca, request, usages, lifetime_s, now)


def _parsed(pem: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as e:
        raise PkiError(f"not a signing request: {e}") from e
    if not valid:
        raise PkiError("the signing request is not signed by its own key")
    return request


def _check_key(request: x509.CertificateSigningRequest) -> None:
    key = request.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise PkiError(f"an RSA key of {key.key_size} bits is too short: it needs {_MIN_RSA_BITS}")
    elif not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise PkiError("the key must be RSA, ECDSA or Ed25519")


def _check_reserved(request: x509.CertificateSigningRequest) -> None:
    """sk8:* opens the store, kubelets and machines; system:masters is above RBAC; the front proxy speaks for others."""
    for attribute in request.subject:
        value = str(attribute.value)
        if value.startswith("sk8:") or value in ("system:masters", "front-proxy-client"):
            raise PkiError(f"the subject names {value!r}, which no request may have")


def _certificate(
    ca: KeyPair, request: x509.CertificateSigningRequest, usages: Collection[str], lifetime_s: float, now: dt.datetime
) -> bytes:
    ca_cert = x509.load_pem_x509_certificate(ca.cert)
    ca_key = serialization.load_pem_private_key(ca.key, None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise PkiError("the CA's key is not an ECDSA key")
    until = min(now + dt.timedelta(seconds=lifetime_s), ca_cert.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(ca_cert.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oid for u, oid in _PURPOSES.items() if u in usages]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    bits = _key_usage(usages)
    if bits.digital_signature or bits.key_encipherment:  # one without any bit is refused by TLS
        builder = builder.add_extension(bits, critical=True)
    names = signers.alternative_names(request)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_usage(usages: Collection[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signers.SIGNATURE in usages,
        key_encipherment=signers.ENCIPHERMENT in usages,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
