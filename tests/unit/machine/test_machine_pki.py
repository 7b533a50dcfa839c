"""Certificates: what each says, who may have which, and that a machine cannot talk the signer into more."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.api import signers
from cluster.machine import identity, pki
from cluster.machine.config import ClusterConfig
from cluster.machine.files import write_atomic
from cluster.machine.machine_config import MachineConfig
from tests.support.signing_requests import request_pem

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CONFIG = ClusterConfig.local(4, 3)
PLANE, WORKER = CONFIG.machines[0], CONFIG.machines[3]


@pytest.fixture(scope="module")
def ca() -> pki.KeyPair:
    return pki.new_ca("sk8-ca", NOW)


def issued(ca: pki.KeyPair, name: str) -> x509.Certificate:
    _, request = pki.new_request("whoever")
    return x509.load_pem_x509_certificate(pki.sign_machine(ca, CONFIG, PLANE, {name: request}, NOW)[name])


def names_of(cert: x509.Certificate) -> tuple[str, list[str]]:
    common = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    groups = [a.value for a in cert.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return str(common), [str(g) for g in groups]


@pytest.mark.parametrize(
    ("name", "common", "group"),
    [
        ("node", "system:node:m1", "system:nodes"),
        ("proxy", "system:kube-proxy", "system:node-proxier"),
        ("kubelet-client", "kube-apiserver-kubelet-client", "sk8:apiservers"),
        ("store-peer", "sk8:store:m1", "sk8:store-peers"),
        ("store-client", "sk8:store-client:m1", "sk8:store-clients"),
    ],
)
def test_identities(ca: pki.KeyPair, name: str, common: str, group: str) -> None:
    assert names_of(issued(ca, name)) == (common, [group])


def test_apiserver_names(ca: pki.KeyPair) -> None:
    cert = issued(ca, "apiserver")
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = set(names.get_values_for_type(x509.DNSName))
    expected = {"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "m1"}
    assert dns == expected | {"kubernetes.default.svc.cluster.local"}
    ips = {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    assert ips == {"127.0.0.1", "10.96.0.1", "10.89.0.11"}
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_store_peers_are_servers_and_clients_with_the_machines_address(ca: pki.KeyPair) -> None:
    cert = issued(ca, "store-peer")
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.89.0.11"]


def test_leaves_are_no_authorities_and_expire(ca: pki.KeyPair) -> None:
    cert = issued(ca, "node")
    constraint = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraint.critical and not constraint.value.ca
    pem = cert.public_bytes(Encoding.PEM)
    assert pki.expires(pem) == NOW + dt.timedelta(days=365)
    assert not pki.needs_renewal(pem, NOW + dt.timedelta(days=200))
    assert pki.needs_renewal(pem, NOW + dt.timedelta(days=250))
    assert pki.issued_by(pem, ca.cert)
    assert not pki.issued_by(pem, pki.new_ca("sk8-ca", NOW).cert)


def test_a_worker_gets_no_control_plane_certificate(ca: pki.KeyPair) -> None:
    _, request = pki.new_request("x")
    with pytest.raises(pki.PkiError, match="worker"):
        pki.sign_machine(ca, CONFIG, WORKER, {"store-client": request}, NOW)
    with pytest.raises(pki.PkiError, match="admin"):
        pki.sign_machine(ca, CONFIG, PLANE, {"admin": request}, NOW)


def test_what_a_request_asks_for_is_not_what_it_gets(ca: pki.KeyPair) -> None:
    """A rooted machine asks to be system:masters under another's name; the signer takes its key alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    wish = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"), x509.NameAttribute(NameOID.COMMON_NAME, "m3")]
    )
    other = x509.SubjectAlternativeName([x509.DNSName("m3")])
    request = x509.CertificateSigningRequestBuilder().subject_name(wish).add_extension(other, critical=False)
    pem = request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    cert = x509.load_pem_x509_certificate(pki.sign_machine(ca, CONFIG, PLANE, {"node": pem}, NOW)["node"])
    assert names_of(cert) == ("system:node:m1", ["system:nodes"])
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["m1"]


def test_bad_requests_are_refused(ca: pki.KeyPair) -> None:
    with pytest.raises(pki.PkiError, match="not a signing request"):
        pki.sign(ca, b"nonsense", pki.ADMIN, NOW)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(pki.PkiError, match="P-256"):
        pki.sign(ca, request.public_bytes(Encoding.PEM), pki.ADMIN, NOW)


def test_joining(tmp_path: Path) -> None:
    """From an empty disk to a whole identity, whose files only their owner can read, with a token that works once."""
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    authority = identity.Authority(config)
    authority.create()
    machine = config.machine("m1")
    authority.provision(machine)
    assert not identity.is_complete(machine)
    request = identity.join_request(machine)
    reply = authority.admit("m1", request.token, request.requests)
    identity.install(machine, request, identity.JoinReply.from_json(reply.to_json()))
    assert identity.is_complete(machine)
    assert not (machine.disk / identity.TOKEN_FILE).exists()
    assert machine.pki.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in machine.pki.iterdir()} == {0o600}
    for name in ("sa.key", "sa.pub", "encryption.key", "ca.crt"):
        assert (machine.pki / name).read_bytes() == (config.pki / name).read_bytes()
    ssl.create_default_context(cafile=str(machine.pki / "ca.crt")).load_cert_chain(
        str(machine.pki / "node.crt"), str(machine.pki / "node.key")
    )
    with pytest.raises(pki.PkiError, match="used up"):
        authority.admit("m1", request.token, request.requests)


def test_a_worker_gets_no_shared_secret_but_rays(tmp_path: Path) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    authority = identity.Authority(config)
    authority.create()
    authority.provision(config.machine("m4"))
    request = identity.join_request(config.machine("m4"))
    reply = authority.admit("m4", request.token, request.requests)
    assert sorted(reply.files) == ["ca.crt", "ray.token"]


def test_wrong_tokens_and_other_machines_tokens_are_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    authority = identity.Authority(config)
    authority.create()
    for name in ("m1", "m2"):
        authority.provision(config.machine(name))
    request = identity.join_request(config.machine("m2"))
    with pytest.raises(pki.PkiError, match="wrong join token"):
        authority.admit("m1", request.token, request.requests)
    assert authority.admit("m2", request.token, request.requests).certs.keys() == request.requests.keys()


def test_making_the_authority_twice_changes_nothing(tmp_path: Path) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    identity.Authority(config).create()
    before = {f.name: f.read_bytes() for f in config.pki.iterdir()}
    identity.Authority(config).create()
    assert {f.name: f.read_bytes() for f in config.pki.iterdir()} == before


def test_the_encryption_key_is_32_raw_bytes(tmp_path: Path) -> None:
    """What AES takes as it is; it was base64 text once, and no API server started."""
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    identity.Authority(config).create()
    assert len((config.pki / "encryption.key").read_bytes()) == 32


def joined(tmp_path: Path) -> tuple[identity.Authority, MachineConfig]:
    """A machine that has joined, and the authority it did so with."""
    config = replace(CONFIG, base_dir=str(tmp_path))
    authority, machine = identity.Authority(config), config.machine("m1")
    authority.create()
    authority.provision(machine)
    request = identity.join_request(machine)
    identity.install(machine, request, authority.admit("m1", request.token, request.requests))
    return authority, machine


def test_a_machine_renews_with_the_certificate_it_has(tmp_path: Path) -> None:
    authority, machine = joined(tmp_path)
    before = {path.name: path.read_bytes() for path in machine.pki.glob("*.[ck][re][ty]")}
    request = identity.join_request(machine)
    assert request.proof is not None and b"PRIVATE" not in request.to_json()
    identity.install(machine, request, authority.renew("m1", request.proof, request.requests))
    for name in pki.certificate_names(PLANE):
        assert (machine.pki / f"{name}.key").read_bytes() != before[f"{name}.key"]
        assert pki.issued_by((machine.pki / f"{name}.crt").read_bytes(), (machine.pki / "ca.crt").read_bytes())
        ssl.create_default_context().load_cert_chain(machine.pki / f"{name}.crt", machine.pki / f"{name}.key")
    assert identity.is_complete(machine)


@pytest.mark.parametrize("at", ["node.crt", "node.key"])
def test_a_renewal_that_is_broken_off_leaves_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """The power fails before that file is written, or takes its place."""
    authority, machine = joined(tmp_path)
    before = (machine.pki / "node.key").read_bytes()
    request = identity.join_request(machine)
    assert request.proof is not None
    reply = authority.renew("m1", request.proof, request.requests)
    promote = identity._promote

    def writes(path: Path, data: bytes) -> None:
        if path.name == at:
            raise OSError("power")
        write_atomic(path, data)

    def promotes(of: MachineConfig, name: str) -> None:
        if f"{name}.key" == at:
            raise OSError("power")
        promote(of, name)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(identity, "write_atomic", writes)
        patch.setattr(identity, "_promote", promotes)
        identity.install(machine, request, reply)
    assert (machine.pki / "node.key").read_bytes() == before
    assert identity.is_complete(machine)
    expected = request.keys["node"] if at == "node.key" else before
    assert (machine.pki / "node.key").read_bytes() == expected
    assert not list(machine.pki.glob("*.new"))


def test_a_pair_that_does_not_fit_is_not_complete_and_is_not_shown(tmp_path: Path) -> None:
    authority, machine = joined(tmp_path)
    authority.invite(machine)
    (machine.pki / "node.key").write_bytes(pki.new_request("node")[0])
    assert not identity.is_complete(machine)
    request = identity.join_request(machine)
    assert request.proof is None
    identity.install(machine, request, authority.admit("m1", request.token, request.requests))
    assert identity.is_complete(machine)


def test_a_token_that_was_left_there_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """The answer was installed but for the last step: the token is used up and still on the disk."""
    authority, machine = joined(tmp_path)
    (machine.disk / identity.TOKEN_FILE).write_text("used")
    request = identity.join_request(machine)
    assert request.proof is not None
    identity.install(machine, request, authority.renew("m1", request.proof, request.requests))
    assert identity.is_complete(machine)


def test_a_users_certificate_of_a_machines_name_renews_nothing(tmp_path: Path) -> None:
    authority, _ = joined(tmp_path)
    key, requests = ec.generate_private_key(ec.SECP256R1()), {"node": pki.new_request("node")[1]}
    usages, name = (signers.SIGNATURE, signers.CLIENT_AUTH), "system:node:m1"
    for signer, groups in ((signers.API_CLIENT, []), (signers.KUBELET_CLIENT, ["system:nodes"])):
        cert = authority.sign(signer, request_pem(name, groups, key=key), usages, 3600)
        with pytest.raises(pki.PkiError, match="is not system:node:m1's"):
            authority.renew("m1", pki.prove(pki.KeyPair(cert, pki._key_pem(key)), requests), requests)


def test_renewal_is_refused_without_the_key_for_other_machines_and_for_other_requests(tmp_path: Path) -> None:
    authority, machine = joined(tmp_path)
    request = identity.join_request(machine)
    assert request.proof is not None
    _, foreign = pki.new_request("node")
    stranger = pki.issue(pki.new_ca("another", NOW), pki.ADMIN, NOW).cert
    for name, proof, requests, why in (
        ("m2", request.proof, request.requests, "is not system:node:m2's"),
        ("m1", request.proof, {"node": foreign}, "not signed by the key"),
        ("m1", replace(request.proof, cert=stranger), request.requests, "not of this cluster"),
    ):
        with pytest.raises(pki.PkiError, match=why):
            authority.renew(name, proof, requests)


def test_a_certificate_that_has_ended_renews_nothing(ca: pki.KeyPair) -> None:
    key, request = pki.new_request("node")
    cert = pki.sign_machine(ca, CONFIG, PLANE, {"node": request}, NOW)["node"]
    proof = pki.prove(pki.KeyPair(cert, key), {"node": request})
    pki.check_proof(proof, ca.cert, "system:node:m1", {"node": request}, NOW)
    with pytest.raises(pki.PkiError, match="not valid now"):
        pki.check_proof(proof, ca.cert, "system:node:m1", {"node": request}, NOW + dt.timedelta(days=366))
