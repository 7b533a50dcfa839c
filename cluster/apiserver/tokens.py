"""ServiceAccount tokens: signing and checking JWTs.

IO: reads key files at construction; otherwise pure given a clock.

A token says which ServiceAccount it stands for, for whom (audiences), until when, and to which pod, secret or node it
is bound. Checking the signature costs 50 us, so verified tokens are kept until they expire; whether the account and
the bound object still exist is asked on every request (authn.py). Source: KEP-1205, RFC 7519.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

_KEPT = 20_000
_CLAIM = "kubernetes.io"
LEGACY_ISSUER = "kubernetes/serviceaccount"
_LEGACY = "kubernetes.io/serviceaccount/"
Clock = Callable[[], float]
PublicKey = RSAPublicKey | EllipticCurvePublicKey


class InvalidToken(Exception):
    """The token is not one of ours, or no longer valid; the message is for the log, not for the client."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An object a token is bound to."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. A token kept in a Secret never expires; its `secret` has no uid."""

    namespace: str
    name: str
    uid: str
    audiences: tuple[str, ...]
    expires: float
    token_id: str
    pod: Ref | None = None
    secret: Ref | None = None
    node: Ref | None = None


def key_id(key: PublicKey) -> str:
    """Kubernetes' key id: unpadded base64url of the SHA-256 of the public key's DER."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return jwt.utils.base64url_encode(hashlib.sha256(der).digest()).decode()


def _algorithm(key: PublicKey) -> str:
    if isinstance(key, RSAPublicKey):
        return "RS256"
    return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]


class TokenSigner:
    """Signs tokens with one private key (sa.key, PEM, RSA or EC)."""

    def __init__(self, sa_key_path: str, issuer: str, clock: Clock) -> None:
        key = load_pem_private_key(Path(sa_key_path).read_bytes(), None)
        if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
            raise ValueError(f"{sa_key_path}: a service account key must be RSA or EC, is {type(key).__name__}")
        self._key = key
        self._kid = key_id(key.public_key())
        self._algorithm = _algorithm(key.public_key())
        self._issuer = issuer
        self._clock = clock

    def sign(
        self,
        namespace: str,
        name: str,
        uid: str,
        *,
        audiences: Sequence[str],
        seconds: int,
        pod: Ref | None = None,
        secret: Ref | None = None,
        node: Ref | None = None,
    ) -> tuple[str, int]:
        """A token for a ServiceAccount and when it expires (seconds since the epoch)."""
        now = int(self._clock())
        bound: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        for kind, ref in (("pod", pod), ("secret", secret), ("node", node)):
            if ref is not None:
                bound[kind] = {"name": ref.name, "uid": ref.uid}
        claims = {
            "aud": list(audiences),
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": self._issuer,
            "jti": str(uuid.uuid4()),
            "sub": f"system:serviceaccount:{namespace}:{name}",
            _CLAIM: bound,
        }
        return self._encode(claims), now + seconds

    def sign_secret(self, namespace: str, name: str, uid: str, secret: str) -> str:
        """The token of a Secret of type kubernetes.io/service-account-token: for as long as both are there."""
        said = {"namespace": namespace, "secret.name": secret, "service-account.name": name, "service-account.uid": uid}
        claims = {_LEGACY + key: value for key, value in said.items()}
        return self._encode({**claims, "iss": LEGACY_ISSUER, "sub": f"system:serviceaccount:{namespace}:{name}"})

    def _encode(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, self._algorithm, headers={"kid": self._kid})


class TokenVerifier:
    """Checks tokens against the public keys of `key_files` (public or private PEM)."""

    def __init__(self, key_files: Sequence[str], issuer: str, audiences: Sequence[str], clock: Clock) -> None:
        self._keys: dict[str, tuple[PublicKey, str]] = {}
        for path in key_files:
            key = _public_key(path)
            self._keys[key_id(key)] = (key, _algorithm(key))
        self._issuer = issuer
        self._audiences = tuple(audiences)
        self._clock = clock
        self._kept: OrderedDict[str, Claims] = OrderedDict()

    @property
    def audiences(self) -> tuple[str, ...]:
        return self._audiences

    def public_keys(self) -> list[tuple[str, str, PublicKey]]:
        """(key id, algorithm, key), for the JWKS document."""
        return [(kid, algorithm, key) for kid, (key, algorithm) in self._keys.items()]

    def verify(self, token: str, audiences: Sequence[str] = ()) -> Claims:
        """Raises InvalidToken. `audiences` empty: the API server's own."""
        claims = self._kept.get(token)
        if claims is None:
            claims = self._decode(token)
            self._kept[token] = claims
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if self._clock() >= claims.expires:
            self._kept.pop(token, None)
            raise InvalidToken("the token has expired")
        if not set(audiences or self._audiences) & set(claims.audiences):
            raise InvalidToken(f"the token is for {list(claims.audiences)}")
        return claims

    def _decode(self, token: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
            known = self._keys.get(str(header.get("kid", "")))
            if known is None:
                raise InvalidToken("the token was signed by a key that is not known")
            key, algorithm = known
            options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
            issuers = [self._issuer, LEGACY_ISSUER]
            raw = jwt.decode(token, key, algorithms=[algorithm], issuer=issuers, options=options)
            return self._secret_claims(raw) if raw["iss"] == LEGACY_ISSUER else self._claims(raw)
        except jwt.PyJWTError as e:
            raise InvalidToken(str(e)) from e
        except (KeyError, TypeError, ValueError) as e:
            raise InvalidToken(f"the token's claims are malformed: {e}") from e

    def _secret_claims(self, raw: Mapping[str, Any]) -> Claims:
        namespace, name = raw[_LEGACY + "namespace"], raw[_LEGACY + "service-account.name"]
        if raw["sub"] != f"system:serviceaccount:{namespace}:{name}":
            raise InvalidToken("the token's subject is not its service account")
        return Claims(
            namespace=namespace,
            name=name,
            uid=raw[_LEGACY + "service-account.uid"],
            audiences=self._audiences,
            expires=float("inf"),
            token_id="",
            secret=Ref(raw[_LEGACY + "secret.name"], ""),
        )

    def _claims(self, raw: Mapping[str, Any]) -> Claims:
        bound = raw[_CLAIM]
        account = bound["serviceaccount"]
        if raw["sub"] != f"system:serviceaccount:{bound['namespace']}:{account['name']}":
            raise InvalidToken("the token's subject is not its service account")
        if float(raw.get("nbf", 0)) > self._clock() + 60:
            raise InvalidToken("the token is not valid yet")
        audiences = raw.get("aud") or []
        return Claims(
            namespace=bound["namespace"],
            name=account["name"],
            uid=account["uid"],
            audiences=(audiences,) if isinstance(audiences, str) else tuple(audiences),
            expires=float(raw["exp"]),
            token_id=str(raw.get("jti", "")),
            pod=_ref(bound.get("pod")),
            secret=_ref(bound.get("secret")),
            node=_ref(bound.get("node")),
        )


def _ref(raw: Mapping[str, Any] | None) -> Ref | None:
    return None if raw is None else Ref(str(raw["name"]), str(raw["uid"]))


def _public_key(path: str) -> PublicKey:
    pem = Path(path).read_bytes()
    private = b"PRIVATE KEY" in pem
    key: Any = load_pem_private_key(pem, None).public_key() if private else load_pem_public_key(pem)
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise ValueError(f"{path}: a service account key must be RSA or EC, is {type(key).__name__}")
    return key
