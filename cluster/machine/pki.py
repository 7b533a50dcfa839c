"""Who is who: the cluster's CA, the certificates of contracts.md, and how a machine gets its own.

Pure but for the key generator; the clock is handed in: bytes in, bytes out; `identity.py` does the files.
A machine makes its own keys and sends signing requests; the holder of the CA decides by `requirement()` alone what the
certificate says: nothing of a request but its public key and its proof of possession is used, so a machine cannot ask
for a name, a group or an address that is not its own.

Keys: ECDSA P-256 for TLS (fast handshakes); RSA 2048 for service account tokens (RS256, what every verifier speaks).
Sources: RFC 5280 (profiles), RFC 2986 (requests), Kubernetes "PKI certificates and requirements".
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.api.forgotten import BACKDATE_S
from cluster.machine.config import ClusterConfig, MachineSpec

CA_DAYS = 3650
LEAF_DAYS = 365
BACKDATE = dt.timedelta(seconds=BACKDATE_S)

MACHINE_CERTS = ("node", "proxy")
CONTROL_PLANE_CERTS = ("apiserver", "kubelet-client", "front-proxy", "store-peer", "store-client")
CONTROL_PLANE_SECRETS = ("sa.key", "sa.pub", "encryption.key")


class PkiError(ValueError):
    """A request that is refused, or a file that is no key or certificate."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate says. `server`/`client`: what its holder may do with it in a TLS handshake."""

    common_name: str
    organizations: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    server: bool = False
    client: bool = True


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM of a certificate and of its private key (PKCS#8)."""

    cert: bytes
    key: bytes


def certificate_names(machine: MachineSpec) -> tuple[str, ...]:
    """The certificates that this machine must hold, by file name."""
    return (*MACHINE_CERTS, *CONTROL_PLANE_CERTS) if machine.control_plane else MACHINE_CERTS


def requirement(name: str, machine: MachineSpec, config: ClusterConfig) -> Subject:
    """What the certificate `name` of this machine has to say; raises PkiError when it may not have one."""
    if name not in certificate_names(machine):
        role = "control plane" if machine.control_plane else "worker"
        raise PkiError(f"machine {machine.name} ({role}) may not hold a {name!r} certificate")
    dns, ips = (machine.name,), (machine.ip,)
    match name:
        case "node":
            return Subject(f"system:node:{machine.name}", ("system:nodes",), dns, ips, server=True)
        case "proxy":
            return Subject(
                "system:kube-proxy", ("system:node-proxier",), (machine.name,)
            )  # whose it is: it may be forgotten
        case "apiserver":
            return _apiserver(machine, config)
        case "kubelet-client":
            return Subject("kube-apiserver-kubelet-client", ("sk8:apiservers",))
        case "front-proxy":
            return Subject("front-proxy-client")
        case "store-peer":
            return Subject(f"sk8:store:{machine.name}", ("sk8:store-peers",), dns, ips, server=True)
        case _:
            return Subject(f"sk8:store-client:{machine.name}", ("sk8:store-clients",))


def _apiserver(machine: MachineSpec, config: ClusterConfig) -> Subject:
    service = "kubernetes.default"
    names = ("localhost", "kubernetes", service, f"{service}.svc", f"{service}.svc.{config.domain}", machine.name)
    more = config.api_cert_sans
    ips = ("127.0.0.1", config.kubernetes_ip, machine.ip, *filter(_is_address, more))
    every = (*names, *(name for name in more if not _is_address(name)))
    return Subject("kube-apiserver", ("sk8:apiservers",), every, ips, server=True, client=False)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# -- making ----------------------------------------------------------------------------------------------------------
def new_ca(common_name: str, now: dt.datetime) -> KeyPair:
    """A self-signed root for ten years that may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def new_service_account_key() -> tuple[bytes, bytes]:
    """(private, public) PEM of the key that signs service account tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _key_pem(key), public


def new_request(common_name: str) -> tuple[bytes, bytes]:
    """(private key, signing request) PEM. The name in it is for readers; the signer decides the real one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def sign(ca: KeyPair, request_pem: bytes, subject: Subject, now: dt.datetime, days: int = LEAF_DAYS) -> bytes:
    """The certificate for the request's public key, saying what `subject` says; raises PkiError on a bad request."""
    try:
        request = x509.load_pem_x509_csr(request_pem)
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as e:
        raise PkiError(f"not a signing request: {e}") from e
    public = request.public_key()
    if not valid:
        raise PkiError("the signing request is not signed by its own key")
    if not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)):
        raise PkiError("the signing request's key must be ECDSA P-256")
    return _leaf(ca, public, subject, now, days)


def issue(ca: KeyPair, subject: Subject, now: dt.datetime, days: int = LEAF_DAYS) -> KeyPair:
    """Key and certificate in one go, for the holder of the CA itself (the admin)."""
    key, request = new_request(subject.common_name)
    return KeyPair(sign(ca, request, subject, now, days), key)


ADMIN = Subject("sk8-admin", ("system:masters",))


def sign_machine(
    ca: KeyPair, config: ClusterConfig, machine: MachineSpec, requests: Mapping[str, bytes], now: dt.datetime
) -> dict[str, bytes]:
    """A certificate for each request by file name; raises PkiError when one is not this machine's to have."""
    return {name: sign(ca, pem, requirement(name, machine, config), now) for name, pem in requests.items()}


# -- renewing --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Proof:
    """A certificate, and its key's signature over the requests that are sent with it."""

    cert: bytes
    signature: bytes

    def to_json(self) -> dict[str, str]:
        return {"cert": self.cert.decode(), "signature": base64.b64encode(self.signature).decode()}

    @classmethod
    def from_json(cls, raw: Mapping[str, str]) -> Proof:
        """Raises ValueError, KeyError."""
        return cls(raw["cert"].encode(), base64.b64decode(raw["signature"], validate=True))


def machine_user(cert: x509.Certificate) -> str:
    """The common name of a machine's own certificate, "" for another. The CA signs users' requests too, whatever name
    they ask for (signing.py); but none of its signers gives a certificate for both sides of a connection."""
    names = [str(name.value) for name in cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        purposes = set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ""
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    return names[0] if len(names) == 1 and both <= purposes else ""


def machine_address(cert: x509.Certificate) -> str:
    """The one address in a machine's own certificate, "" for another."""
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    return addresses[0] if len(addresses) == 1 else ""


def made_at(cert: x509.Certificate) -> float:
    """When it was signed, in whole seconds since the epoch."""
    return (cert.not_valid_before_utc + BACKDATE).timestamp()


def prove(own: KeyPair, requests: Mapping[str, bytes]) -> Proof:
    """Raises PkiError when the key is none to sign with."""
    key = serialization.load_pem_private_key(own.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("the key is not an ECDSA key")
    return Proof(own.cert, key.sign(_to_sign(requests), ec.ECDSA(hashes.SHA256())))


def check_proof(proof: Proof, ca_pem: bytes, user: str, requests: Mapping[str, bytes], now: dt.datetime) -> None:
    """Raises PkiError unless the certificate is the machine `user`'s, of this CA, valid now, and its key signed these
    requests.

    Who sends the same once more gets certificates for keys that he does not have.
    """
    if not issued_by(proof.cert, ca_pem):
        raise PkiError("the certificate that was shown is not of this cluster's CA")
    cert = x509.load_pem_x509_certificate(proof.cert)
    if not is_valid(proof.cert, now):
        raise PkiError("the certificate that was shown is not valid now: the machine has to join again")
    if machine_user(cert) != user:
        raise PkiError(f"the certificate that was shown is not {user}'s")
    key = cert.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise PkiError("the certificate that was shown has no ECDSA key")
    try:
        key.verify(proof.signature, _to_sign(requests), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as e:
        raise PkiError("the requests are not signed by the key of the certificate that was shown") from e


def _to_sign(requests: Mapping[str, bytes]) -> bytes:
    return b"".join(b"%b %d\n%b\n" % (name.encode(), len(pem), pem) for name, pem in sorted(requests.items()))


# -- reading ---------------------------------------------------------------------------------------------------------
def expires(cert_pem: bytes) -> dt.datetime:
    return x509.load_pem_x509_certificate(cert_pem).not_valid_after_utc


def needs_renewal(cert_pem: bytes, now: dt.datetime) -> bool:
    """True in the last third of its life, and for what is no certificate at all."""
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
    except ValueError:
        return True
    begin, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    return now >= begin + (end - begin) * 2 / 3


def issued_by(cert_pem: bytes, ca_pem: bytes) -> bool:
    """True when this CA's key made that certificate (a disk from another cluster carries another CA's)."""
    try:
        ca = x509.load_pem_x509_certificate(ca_pem)
        x509.load_pem_x509_certificate(cert_pem).verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fits(pair: KeyPair) -> bool:
    """True when the certificate is for this key."""
    try:
        key = serialization.load_pem_private_key(pair.key, None)
        return x509.load_pem_x509_certificate(pair.cert).public_key() == key.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def is_valid(cert_pem: bytes, now: dt.datetime) -> bool:
    """Begun and not ended."""
    cert = x509.load_pem_x509_certificate(cert_pem)
    return cert.not_valid_before_utc <= now <= cert.not_valid_after_utc


# -- internals -------------------------------------------------------------------------------------------------------
def _leaf(ca: KeyPair, public: ec.EllipticCurvePublicKey, subject: Subject, now: dt.datetime, days: int) -> bytes:
    ca_cert = x509.load_pem_x509_certificate(ca.cert)
    ca_key = serialization.load_pem_private_key(ca.key, None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise PkiError("the CA's key is not an ECDSA key")
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * subject.server + [ExtendedKeyUsageOID.CLIENT_AUTH] * subject.client
    builder = (
        _builder(_name(subject), ca_cert.subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    names = _alternative_names(subject.dns, subject.ips)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(subject: Subject) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in subject.organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name)])


def _alternative_names(dns: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    return [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips)]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
