"""The files of an identity: the host's side that holds the CA, and the machine's side that asks for certificates.

IO on files only; how a request travels is the caller's (host.sock for local machines). Invariants: a private key is
written once, 0600, in a 0700 directory, and leaves its machine never; a join token is used up by the first join and is
compared in constant time; an interrupted join or renewal leaves no certificate without its key on the disk.

 host                                    machine
 ----                                    -------
 provision: machine.json, join.token --> boot: pki/ incomplete?
                                         keys + requests made
 admit(token, requests)  <-------------- join request
 certificates + secrets  --------------> install(): keys, certificates, secrets; join.token removed
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from cluster.api import forgotten
from cluster.machine import pki, signing
from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.files import make_private_dir, sync_dir, write_atomic
from cluster.machine.machine_config import MachineConfig, save_machine

TOKEN_FILE = "join.token"
SHARED_SECRETS = ("ray.token",)
_NEW_KEY = ".key.new"


def utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class JoinReply:
    """`certs` by name without suffix; `files` are shared files by their name in pki/ (`ca.crt`, `sa.key`, ...)."""

    certs: dict[str, bytes]
    files: dict[str, bytes]

    def to_json(self) -> bytes:
        parts = (("certs", self.certs), ("files", self.files))
        return orjson.dumps({k: {n: base64.b64encode(v).decode() for n, v in d.items()} for k, d in parts})

    @classmethod
    def from_json(cls, data: bytes) -> JoinReply:
        raw = orjson.loads(data)
        return cls(*({n: base64.b64decode(v) for n, v in raw[k].items()} for k in ("certs", "files")))


# -- the host's side -------------------------------------------------------------------------------------------------
class Authority:
    """The holder of the CA: makes the cluster's secrets once, provisions empty disks, admits machines that join."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._dir = config.pki

    def create(self) -> None:
        """Makes whatever is missing; never replaces what is there (idempotent after an interrupted first start)."""
        make_private_dir(self._dir)
        if not (self._dir / "ca.key").exists():
            ca = pki.new_ca(f"{self._config.name}-ca", utcnow())
            write_atomic(self._dir / "ca.crt", ca.cert)
            write_atomic(self._dir / "ca.key", ca.key)
        if not (self._dir / "sa.key").exists():
            private, public = pki.new_service_account_key()
            write_atomic(self._dir / "sa.pub", public)
            write_atomic(self._dir / "sa.key", private)
        if not (self._dir / "encryption.key").exists():
            write_atomic(self._dir / "encryption.key", secrets.token_bytes(32))
        if not (self._dir / "ray.token").exists():
            write_atomic(self._dir / "ray.token", secrets.token_hex(32).encode())
        self.renew_admin()

    def renew_admin(self) -> None:
        """The administrator's certificate alone, when it is missing or near its end: safe beside whatever runs. A crash
        in between leaves the old certificate, which is still due. Raises OSError without the CA's key."""
        if not self._valid(self._dir / "admin.crt"):
            admin = pki.issue(self._ca(), pki.ADMIN, utcnow())
            write_atomic(self._dir / "admin.key", admin.key)
            write_atomic(self._dir / "admin.crt", admin.cert)

    def provision(self, machine: MachineConfig) -> None:
        """Puts a machine's configuration and a fresh join token on its empty disk, as a cloud's first boot does."""
        make_private_dir(machine.disk)
        self.invite(machine)
        save_machine(machine)

    def invite(self, machine: MachineConfig) -> None:
        """A fresh join token, valid once; the one before it is void."""
        token = secrets.token_hex(32)
        make_private_dir(self._dir / "join")
        write_atomic(self._token_hash(machine.name), _digest(token).encode())
        write_atomic(machine.disk / TOKEN_FILE, token.encode())

    def admit(self, name: str, token: str, requests: Mapping[str, bytes]) -> JoinReply:
        """Checks name, role and token, signs, and uses the token up; raises PkiError when refused."""
        machine = self._config.spec(name)
        try:
            expected = self._token_hash(name).read_text()
        except FileNotFoundError as e:
            raise pki.PkiError(f"machine {name} has no join pending: its token was used up") from e
        if not hmac.compare_digest(expected, _digest(token)):
            raise pki.PkiError(f"machine {name}: wrong join token")
        reply = self.reply(machine, requests)
        self._token_hash(name).unlink()
        return reply

    def admit_itself(self, machine: MachineConfig) -> None:
        """The machine that holds the CA joins without a way to travel: the first of a cluster of VMs."""
        request = join_request(machine)
        if request.proof is None:
            reply = self.admit(machine.name, request.token, request.requests)
        else:  # it was interrupted after that
            reply = self.renew(machine.name, request.proof, request.requests)
        install(machine, request, reply)

    def renew(self, name: str, proof: pki.Proof, requests: Mapping[str, bytes]) -> JoinReply:
        """New certificates for a machine that shows one it has and signs with its key; raises PkiError when refused."""
        machine = self._config.spec(name)
        pki.check_proof(proof, (self._dir / "ca.crt").read_bytes(), f"system:node:{name}", requests, utcnow())
        return self.reply(machine, requests)

    def sign(self, signer: str, request: bytes, usages: Collection[str], lifetime_s: float) -> bytes:
        """The certificate for an approved CertificateSigningRequest; raises PkiError when it may not be had."""
        return signing.sign_request(self._ca(), signer, request, usages, lifetime_s, utcnow())

    def reply(self, machine: MachineSpec, requests: Mapping[str, bytes], forgotten_at: float = 0.0) -> JoinReply:
        """What a machine that was admitted gets; raises PkiError when it asks for what is not its own. `forgotten_at`:
        when one of its name last was, in seconds since the epoch."""
        certs = pki.sign_machine(self._ca(), self._config, machine, requests, _made(forgotten_at))
        shared = ["ca.crt", *SHARED_SECRETS, *(pki.CONTROL_PLANE_SECRETS if machine.control_plane else ())]
        return JoinReply(certs, {name: (self._dir / name).read_bytes() for name in shared})

    def _ca(self) -> pki.KeyPair:
        return pki.KeyPair((self._dir / "ca.crt").read_bytes(), (self._dir / "ca.key").read_bytes())

    def _valid(self, path: Path) -> bool:
        if not path.exists():
            return False
        cert = path.read_bytes()
        return pki.issued_by(cert, (self._dir / "ca.crt").read_bytes()) and not pki.needs_renewal(cert, utcnow())

    def _token_hash(self, name: str) -> Path:
        return self._dir / "join" / name


def _made(forgotten_at: float) -> dt.datetime:
    try:
        made = forgotten.made_after(utcnow().timestamp(), forgotten_at)
    except ValueError as e:
        raise pki.PkiError(f"{e}, by this control plane's clock: set the control planes' clocks, then try again") from e
    return dt.datetime.fromtimestamp(made, dt.UTC)


def _digest(token: str) -> str:
    return hashlib.sha256(token.strip().encode()).hexdigest()


# -- the machine's side ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a machine sends; its keys stay behind in `keys`. It shows its token, or the certificate it has."""

    machine: str
    token: str
    requests: dict[str, bytes]
    keys: dict[str, bytes]
    proof: pki.Proof | None = None

    def to_json(self) -> bytes:
        csrs = {name: pem.decode() for name, pem in self.requests.items()}
        shown = {"token": self.token} if self.proof is None else {"proof": self.proof.to_json()}
        return orjson.dumps({"machine": self.machine, "requests": csrs} | shown)


def is_complete(machine: MachineConfig) -> bool:
    """True when every file this machine needs is there, and each certificate fits its key and is not near its end."""
    settle_keys(machine)
    names = pki.certificate_names(MachineSpec(machine.name, machine.ip, machine.control_plane))
    files = ["ca.crt", *SHARED_SECRETS, *(pki.CONTROL_PLANE_SECRETS if machine.control_plane else ())]
    if not all((machine.pki / f).is_file() for f in (*files, *(f"{n}.key" for n in names))):
        return False
    pairs = [_pair(machine, name) for name in names if (machine.pki / f"{name}.crt").is_file()]
    return len(pairs) == len(names) and all(pki.fits(p) and not pki.needs_renewal(p.cert, utcnow()) for p in pairs)


def settle_keys(machine: MachineConfig) -> None:
    """After an `install` that was broken off: a new key whose certificate came takes its place, another is dropped."""
    for new in list(machine.pki.glob(f"*{_NEW_KEY}")):
        name = new.name.removesuffix(_NEW_KEY)
        cert = machine.pki / f"{name}.crt"
        if cert.is_file() and pki.fits(pki.KeyPair(cert.read_bytes(), new.read_bytes())):
            _promote(machine, name)
        else:
            new.unlink()


def _promote(machine: MachineConfig, name: str) -> None:
    (machine.pki / f"{name}{_NEW_KEY}").replace(machine.pki / f"{name}.key")
    sync_dir(machine.pki)


def _pair(machine: MachineConfig, name: str) -> pki.KeyPair:
    return pki.KeyPair(*((machine.pki / f"{name}.{kind}").read_bytes() for kind in ("crt", "key")))


def join_request(machine: MachineConfig) -> JoinRequest:
    """New keys and requests for all certificates, by the certificate that is there while it is good, else by the token
    (which may be used up: an answer that was lost leaves it here). Raises FileNotFoundError when there is neither."""
    settle_keys(machine)
    names = pki.certificate_names(MachineSpec(machine.name, machine.ip, machine.control_plane))
    made = {name: pki.new_request(name) for name in names}
    requests, keys = {n: r for n, (_, r) in made.items()}, {n: k for n, (k, _) in made.items()}
    if all((machine.pki / f"node.{kind}").is_file() for kind in ("crt", "key")):
        own = _pair(machine, "node")
        if pki.fits(own) and pki.is_valid(own.cert, utcnow()):
            return JoinRequest(machine.name, "", requests, keys, pki.prove(own, requests))
    return JoinRequest(machine.name, (machine.disk / TOKEN_FILE).read_text().strip(), requests, keys)


def install(machine: MachineConfig, request: JoinRequest, reply: JoinReply) -> None:
    """Each key beside the old one until its certificate is there; the node's last (what renewal is asked with), then
    the token: after a crash in between `settle_keys` makes pairs, the next attempt finds old ones, and asks again."""
    make_private_dir(machine.pki)
    for name in sorted(reply.certs, key=lambda name: name == "node"):
        write_atomic(machine.pki / f"{name}{_NEW_KEY}", request.keys[name])
        write_atomic(machine.pki / f"{name}.crt", reply.certs[name])
        _promote(machine, name)
    for name, data in reply.files.items():
        if name != Path(name).name:
            raise pki.PkiError(f"the host sent a file with the name {name!r}")
        write_atomic(machine.pki / name, data)
    (machine.disk / TOKEN_FILE).unlink(missing_ok=True)
