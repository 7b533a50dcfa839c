"""What the CA makes of approved requests, and what it never signs whoever asks."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from cluster.api import signers
from cluster.machine import pki
from cluster.machine.signing import sign_request
from tests.support.signing_requests import request_pem

NOW = dt.datetime.now(dt.UTC)
CLIENT = ("digital signature", "client auth")
SERVER = ("digital signature", "server auth")
NODES = ("system:nodes",)


@pytest.fixture(scope="module")
def ca() -> pki.KeyPair:
    return pki.new_ca("sk8-ca", NOW)


def sign(
    ca: pki.KeyPair,
    pem: bytes,
    signer: str = signers.API_CLIENT,
    usages: Sequence[str] = CLIENT,
    lifetime_s: float = 7200,
) -> x509.Certificate:
    return x509.load_pem_x509_certificate(sign_request(ca, signer, pem, usages, lifetime_s, NOW))


def test_a_user_gets_what_was_asked_and_no_more(ca: pki.KeyPair) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    usages = (*CLIENT, "key encipherment")
    cert = sign(ca, request_pem("jane", ["dev", "ops"], key=key), usages=usages)
    assert cert.public_key() == key.public_key()
    assert cert.subject.rfc4514_string() == "CN=jane,O=ops,O=dev"
    assert cert.not_valid_after_utc == NOW.replace(microsecond=0) + dt.timedelta(hours=2)
    assert cert.not_valid_before_utc <= NOW
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and usage.key_encipherment and not usage.key_cert_sign
    purposes = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.cert))


def test_a_server_accepts_it_even_for_client_auth_alone(ca: pki.KeyPair, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = sign_request(ca, signers.API_CLIENT, request_pem("jane", key=key), ["client auth"], 7200, NOW)
    server = pki.issue(ca, pki.Subject("localhost", dns=("localhost",), server=True), NOW)
    client_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert handshake(tmp_path, ca, server, pki.KeyPair(pem, client_key)) == "jane"


def handshake(tmp_path: Path, ca: pki.KeyPair, server: pki.KeyPair, client: pki.KeyPair) -> str:
    """The client's common name as a TLS server that demands certificates reads it."""
    contexts = []
    for purpose, pair in ((ssl.Purpose.CLIENT_AUTH, server), (ssl.Purpose.SERVER_AUTH, client)):
        context = ssl.create_default_context(purpose, cadata=ca.cert.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED
        (tmp_path / "pair.pem").write_bytes(pair.key + pair.cert)
        context.load_cert_chain(tmp_path / "pair.pem")
        contexts.append(context)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        contexts[1].wrap_bio(down, up, server_hostname="localhost"),
        contexts[0].wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = sides[1].getpeercert() or {}
    return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])  # type: ignore[misc]


def test_a_certificate_does_not_outlive_the_ca(ca: pki.KeyPair) -> None:
    cert = sign(ca, request_pem("jane"), lifetime_s=100 * 365 * 86400)
    assert cert.not_valid_after_utc == x509.load_pem_x509_certificate(ca.cert).not_valid_after_utc


def test_a_kubelet_serves_under_its_names(ca: pki.KeyPair) -> None:
    pem = request_pem("system:node:n1", NODES, dns=["n1"], ips=["10.0.0.1"])
    cert = sign(ca, pem, signers.KUBELET_SERVING, SERVER)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("jane", ["system:masters"]),
        ("jane", ["sk8:store-clients"]),
        ("sk8:store:m1", []),
        ("front-proxy-client", []),
    ],
)
def test_reserved_names_are_never_signed(ca: pki.KeyPair, name: str, groups: list[str]) -> None:
    with pytest.raises(pki.PkiError, match="which no request may have"):
        sign(ca, request_pem(name, groups))


@pytest.mark.parametrize(
    ("signer", "pem", "usages", "why"),
    [
        (signers.API_CLIENT, request_pem("jane"), SERVER, "invalid usage for client certificate: server auth"),
        (signers.API_CLIENT, request_pem("jane"), CLIENT[:1], "missing required usage"),
        (signers.KUBELET_CLIENT, request_pem("system:node:n1"), CLIENT, "organization is not system:nodes"),
        (signers.KUBELET_CLIENT, request_pem("jane", NODES), CLIENT, "does not begin with system:node:"),
        (
            signers.KUBELET_CLIENT,
            request_pem("system:node:n1", NODES, dns=["x"]),
            CLIENT,
            "DNS subjectAltNames are not",
        ),
        (signers.KUBELET_CLIENT, request_pem("system:node:n1", NODES), SERVER, "usages did not match"),
        (signers.KUBELET_SERVING, request_pem("system:node:n1", NODES), SERVER, "subjectAltName is required"),
        (signers.KUBELET_SERVING, request_pem("system:node:n1", NODES, dns=["x"]), CLIENT, "usages did not match"),
        ("example.com/own", request_pem("jane"), CLIENT, "no signer 'example.com/own' runs here"),
        (signers.API_CLIENT, b"nonsense", CLIENT, "not a signing request"),
    ],
)
def test_what_a_signer_refuses(ca: pki.KeyPair, signer: str, pem: bytes, usages: Sequence[str], why: str) -> None:
    with pytest.raises(pki.PkiError, match=why):
        sign(ca, pem, signer, usages)


def test_weak_keys_are_refused(ca: pki.KeyPair) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(pki.PkiError, match="1024 bits is too short"):
        sign(ca, request_pem("jane", key=key))
