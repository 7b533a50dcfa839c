"""Who may join a cluster of VMs, and who did: the tokens, the machines, the control planes that are still awaited.

IO on one small file beside the CA (`pki/join.json`, 0600, behind a lock: the server and `sk8 token` write it). Tokens
have kubeadm's form and are kept as hashes. Invariants:
- a name belongs to the address that joined with it until it is forgotten: a token does not take over a machine;
- a control plane must be one of the configuration's, speak from its address, and joins once. It alone gets the
  CA's key. The same signing requests again are the same join (an answer that was lost); others, from a disk that was
  replaced, need a new invitation, because the store must not take it for the founder that it was.
- tokens and invitations are good only at the control plane that keeps them: no other hears that they were used.
Sources: kubeadm's bootstrap tokens; RFC 7469, section 2.4 (the pin of a certificate).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.files import locked, make_private_dir, write_atomic
from cluster.machine.pki import PkiError

_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_ALPHABET = string.ascii_lowercase + string.digits


def new_token() -> str:
    """82 bits of secret behind a name of 6 characters that may be shown."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(6)) + "." + secrets.token_hex(8)


def only_certificate(pem: bytes) -> bytes:
    """That one and nothing beside it: who trusts a file trusts every certificate in it. Raises ValueError."""
    found = x509.load_pem_x509_certificates(pem)
    if len(found) != 1:
        raise ValueError(f"{len(found)} certificates, not one")
    return found[0].public_bytes(serialization.Encoding.PEM)


def ca_pin(ca_pem: bytes) -> str:
    """What kubeadm calls the discovery token's CA certificate hash. Raises ValueError."""
    key = x509.load_pem_x509_certificate(only_certificate(ca_pem)).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(info).hexdigest()


@dataclass(frozen=True, slots=True)
class Ticket:
    """All that a machine needs to join; a secret. `endpoint` is "address:port" of a control plane."""

    endpoint: str
    token: str
    pin: str

    def to_json(self) -> bytes:
        return orjson.dumps({"endpoint": self.endpoint, "token": self.token, "ca_pin": self.pin}) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Ticket:
        """Raises ValueError."""
        try:
            raw = orjson.loads(data)
            return cls(str(raw["endpoint"]), str(raw["token"]), str(raw["ca_pin"]))
        except (KeyError, TypeError) as e:
            raise ValueError("it needs endpoint, token and ca_pin") from e


@dataclass(frozen=True, slots=True)
class Admission:
    """`founding`: a control plane that may still make the store's first membership out of an empty directory."""

    spec: MachineSpec
    founding: bool = False


@dataclass(slots=True)
class _State:
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> hash, expires (0: never)
    machines: dict[str, str] = field(default_factory=dict)  # name -> address
    invited: dict[str, bool] = field(default_factory=dict)  # control plane -> founding
    joined: dict[str, dict[str, Any]] = field(default_factory=dict)  # control plane -> digest of its requests, founding


class JoinLedger:
    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._file = config.pki / "join.json"

    def invite_founders(self, head: str) -> None:
        """At the birth of the cluster: `head` is there already."""
        with self._changing() as state:
            state.machines[head] = self._config.spec(head).ip
            state.invited = {spec.name: True for spec in self._config.control_planes if spec.name != head}

    def add_token(self, expires: float = 0.0) -> str:
        """A new one; `expires` in seconds since the epoch, 0 for never."""
        token = new_token()
        with self._changing() as state:
            state.tokens[token.partition(".")[0]] = {"hash": _digest(token), "expires": expires}
        return token

    def invite(self, name: str) -> None:
        """A declared control plane whose disk was replaced may join again. Raises ConfigError for others."""
        self._config.spec(name)
        with self._changing() as state:
            state.invited[name] = False
            state.joined.pop(name, None)
            state.machines.pop(name, None)

    def forget(self, name: str) -> None:
        """Its name is free again."""
        with self._changing() as state:
            state.machines.pop(name, None)

    def for_another(self) -> bytes:
        """The file that a joining control plane begins with: names that are taken and who joined, but neither tokens
        nor invitations. Those are used up here, which a copy would not hear of: a control plane's empty disk could join
        there as the founder that it was, and take its member's votes twice."""
        state = self._read()
        state.tokens, state.invited = {}, {}
        return _encoded(state)

    def machines(self) -> dict[str, str]:
        """Address by name of all that joined here."""
        return dict(self._read().machines)

    def admit(
        self, token: str, asked: MachineSpec, requests: Mapping[str, bytes], source: str, now: float
    ) -> Admission:
        """Raises PkiError when refused. `source`: the address that the request came from."""
        with self._changing() as state:
            _check_token(state, token, now)
            if source != asked.ip:
                raise PkiError(f"the request for {asked.ip} came from {source}: join with --address {source}")
            plane = next((m for m in self._config.control_planes if asked.ip == m.ip or asked.name == m.name), None)
            if plane is not None:
                return _admit_plane(state, plane, asked, _digest_of(requests))
            known = state.machines.get(asked.name)
            if known is not None and known != asked.ip:
                raise PkiError(
                    f"{known} has joined as {asked.name} already: use another --name, or free this one with "
                    f"`sk8 machine forget {asked.name}` on the control plane"
                )
            state.machines[asked.name] = asked.ip
            return Admission(MachineSpec(asked.name, asked.ip, False, asked.zone))

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        make_private_dir(self._file.parent)
        with locked(self._file.with_suffix(".lock")):
            state = self._read()
            yield state
            write_atomic(self._file, _encoded(state))

    def _read(self) -> _State:
        try:
            return _State(**orjson.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return _State()


def _encoded(state: _State) -> bytes:
    return orjson.dumps({name: getattr(state, name) for name in ("tokens", "machines", "invited", "joined")})


def _check_token(state: _State, token: str, now: float) -> None:
    found = _TOKEN.fullmatch(token)
    kept = state.tokens.get(found[1]) if found else None
    if kept is None or not hmac.compare_digest(str(kept["hash"]), _digest(token)):
        raise PkiError("the join token is not known here: `sk8 token create` on the control plane makes one")
    if 0 < float(kept["expires"]) < now:
        raise PkiError("the join token has expired: `sk8 token create` on the control plane makes another")


def _admit_plane(state: _State, plane: MachineSpec, asked: MachineSpec, digest: str) -> Admission:
    if plane.ip != asked.ip:
        raise PkiError(f"{plane.name} is the control plane at {plane.ip}: use another --name")
    before = state.joined.get(plane.name)
    if before is not None and hmac.compare_digest(str(before["digest"]), digest):
        return Admission(replace(plane, zone=asked.zone), bool(before["founding"]))
    if plane.name not in state.invited:
        raise PkiError(
            f"control plane {plane.name} has joined already; if its disk was replaced, say "
            f"`sk8 token create --control-plane {plane.name}` on another control plane first"
        )
    founding = state.invited.pop(plane.name)
    state.joined[plane.name] = {"digest": digest, "founding": founding}
    state.machines[plane.name] = plane.ip
    return Admission(replace(plane, zone=asked.zone), founding)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _digest_of(requests: Mapping[str, bytes]) -> str:
    return hashlib.sha256(orjson.dumps({n: requests[n].decode() for n in sorted(requests)})).hexdigest()


def join_file(directory: Path) -> Path:
    """Where a machine keeps what it asked with, until it has the answer."""
    return directory / "join.json"
