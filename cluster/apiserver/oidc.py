"""OpenID Connect: ID tokens of one issuer, checked against its published keys. IO: HTTPS to the issuer.

The keys are fetched by discovery (`<issuer>/.well-known/openid-configuration`, then `jwks_uri`) when a token names a
key that is not known, once in _AGAIN_S at most, so that forged key ids cost the issuer nothing. A token whose issuer is
another is not ours to judge. Source: OpenID Connect Core 1.0, RFC 7519, kube-apiserver's --oidc-* flags.

    username   the username claim, behind a prefix: `oidc_username_prefix`, or `<issuer>#` unless the claim is email
    groups     the groups claim (a string or a list), each behind `oidc_groups_prefix`
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
import orjson

from cluster.api.bodies import read_at_most
from cluster.apiserver.tokens import InvalidToken
from cluster.registry.context import UserInfo

_AGAIN_S = 10.0
_FETCH_S = 10.0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """`username_prefix` "-" is no prefix at all; `ca_file` "" trusts the system's authorities."""

    issuer_url: str
    client_id: str
    username_claim: str = "sub"
    username_prefix: str = ""
    groups_claim: str = ""
    groups_prefix: str = ""
    ca_file: str = ""
    signing_algs: tuple[str, ...] = ("RS256",)
    required_claims: tuple[tuple[str, str], ...] = ()


class OidcVerifier:
    def __init__(self, settings: OidcSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()

    def speaks_of(self, token: str) -> bool:
        """Whether the token claims to be of this issuer."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return False
        return claims.get("iss") == self._settings.issuer_url

    async def user_of(self, token: str) -> UserInfo:
        """Raises InvalidToken."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in settings.signing_algs:
                raise InvalidToken(f"oidc: tokens signed with {header.get('alg')} are not accepted")
            key = await self._key(str(header.get("kid", "")))
            options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss"]}
            claims = jwt.decode(
                token,
                key.key,
                algorithms=list(settings.signing_algs),
                audience=settings.client_id,
                issuer=settings.issuer_url,
                options=options,
            )
        except jwt.PyJWTError as e:
            raise InvalidToken(f"oidc: {e}") from e
        self._check_times(claims)
        for name, wanted in settings.required_claims:
            if claims.get(name) != wanted:
                raise InvalidToken(f"oidc: required claim {name} is not {wanted!r}")
        return UserInfo(self._username(claims), groups=(*self._groups(claims), "system:authenticated"))

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        try:
            if now >= float(claims["exp"]):
                raise InvalidToken("oidc: the token has expired")
            if float(claims.get("nbf", 0)) > now + 60:
                raise InvalidToken("oidc: the token is not valid yet")
        except (TypeError, ValueError) as e:
            raise InvalidToken("oidc: the token's times are malformed") from e

    def _username(self, claims: Mapping[str, Any]) -> str:
        settings = self._settings
        name = claims.get(settings.username_claim)
        if not isinstance(name, str) or not name:
            raise InvalidToken(f"oidc: the token has no claim {settings.username_claim}")
        if settings.username_claim == "email" and claims.get("email_verified", True) is not True:
            raise InvalidToken("oidc: the email is not verified")
        if settings.username_prefix == "-":
            return name
        if settings.username_prefix or settings.username_claim == "email":
            return settings.username_prefix + name
        return f"{settings.issuer_url}#{name}"

    def _groups(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        settings = self._settings
        found = claims.get(settings.groups_claim) if settings.groups_claim else None
        if found is None:
            return ()
        groups = [found] if isinstance(found, str) else found
        if not isinstance(groups, list) or not all(isinstance(g, str) for g in groups):
            raise InvalidToken(f"oidc: the claim {settings.groups_claim} is no list of strings")
        return tuple(settings.groups_prefix + g for g in groups)

    async def _key(self, kid: str) -> Any:
        if kid not in self._keys:
            async with self._lock:
                if kid not in self._keys and self._clock() - self._fetched >= _AGAIN_S:
                    self._fetched = self._clock()
                    try:
                        self._keys = await self._fetch()
                    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as e:
                        raise InvalidToken(f"oidc: the issuer's keys cannot be had: {e}") from e
        key = self._keys.get(kid)
        if key is None:
            raise InvalidToken("oidc: the token was signed by a key that the issuer does not publish")
        return key

    async def _fetch(self) -> dict[str, Any]:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        timeout = aiohttp.ClientTimeout(total=_FETCH_S)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=timeout, raise_for_status=True
        ) as session:
            document = await _json(session, settings.issuer_url.rstrip("/") + "/.well-known/openid-configuration")
            if document.get("issuer") != settings.issuer_url:
                raise ValueError(f"its discovery document is for {document.get('issuer')!r}")
            uri = str(document["jwks_uri"])
            if not uri.startswith("https://"):
                raise ValueError("jwks_uri is not https")
            keys = await _json(session, uri)
        out: dict[str, Any] = {}
        for raw in keys["keys"]:
            try:
                key = jwt.PyJWK.from_dict(raw)
            except jwt.PyJWTError:
                continue  # a key of a kind that we do not read does not spoil the others
            if raw.get("use", "sig") == "sig":
                out[str(raw.get("kid", ""))] = key
        return out


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as response:
        raw, longer = await read_at_most(response.content.iter_any(), _MAX_BYTES)
        if longer:
            raise ValueError(f"{url} is larger than {_MAX_BYTES} bytes")
        found = orjson.loads(raw)
        if not isinstance(found, dict):
            raise ValueError(f"{url} is no JSON object")
        return found
