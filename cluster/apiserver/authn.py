"""Who is asking: client certificate, ServiceAccount token, static, bootstrap or OIDC token, or nobody.

IO: reads the token file at start.

Certificates were verified by TLS; here CN is the user and each O a group, as in Kubernetes. A token's ServiceAccount,
and the pod or secret it is bound to, must still exist with the same uid: asked of the cache, and of a fresh cache
before a token is refused, so that an account made a moment ago on another server is not turned away.

Invariant: bad credentials are 401, never a fall-back to anonymous; anonymous reaches only the paths that config names.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hmac
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.api import errors, forgotten
from cluster.api.scheme import SCHEME
from cluster.apiserver import metrics
from cluster.apiserver.bootstraptokens import BootstrapTokens, is_bootstrap_token
from cluster.apiserver.cache import Cache, Entry
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.oidc import OidcVerifier
from cluster.apiserver.tokens import Claims, InvalidToken, Ref, TokenVerifier
from cluster.registry.context import UserInfo

ANONYMOUS = UserInfo("system:anonymous", groups=("system:unauthenticated",))
_AUTHENTICATED = "system:authenticated"
_EXTRA = "authentication.kubernetes.io/"
_BEARER_PROTOCOL = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True)
class CertIdentity:
    """The user of a TLS client certificate, and from when to when it is valid (seconds since the epoch).

    `machine`: whose it is, if a machine's: a kubelet's by its user, a proxy's by its alternative name.
    """

    user: UserInfo
    not_after: float
    not_before: float = 0.0
    machine: str = ""


def identity_of(peer_cert: Mapping[str, Any] | None) -> CertIdentity | None:
    """From `SSLSocket.getpeercert()`; None without a certificate or without a CN."""
    if not peer_cert:
        return None
    name, groups = "", []
    for rdn in peer_cert.get("subject", ()):
        for key, value in rdn:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        return None
    if _AUTHENTICATED not in groups:
        groups.append(_AUTHENTICATED)
    begin, end = (float(ssl.cert_time_to_seconds(peer_cert[key])) for key in ("notBefore", "notAfter"))
    return CertIdentity(UserInfo(name, groups=tuple(groups)), end, begin, _machine_of(name, groups, peer_cert))


def _machine_of(user: str, groups: Sequence[str], peer_cert: Mapping[str, Any]) -> str:
    if "system:nodes" in groups:
        return user.removeprefix("system:node:")
    names = [value for kind, value in peer_cert.get("subjectAltName", ()) if kind == "DNS"]
    return names[0] if "system:node-proxier" in groups and names else ""


def credentials(headers: Mapping[str, str]) -> str:
    """The Authorization of a request. Browsers cannot set it for a WebSocket: there the token is a subprotocol.

    Source: Kubernetes apiserver/pkg/authentication/request/websocket/protocol.go. Raises ApiError 401.
    """
    given = headers.get("Authorization", "")
    if given or headers.get("Upgrade", "").lower() != "websocket":
        return given
    tokens = [p for p in websocket_protocols(headers) if p.startswith(_BEARER_PROTOCOL)]
    if not tokens:
        return ""
    encoded = tokens[0].removeprefix(_BEARER_PROTOCOL)
    try:
        token = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise errors.unauthorized() from None
    return f"Bearer {token}"


def websocket_protocols(headers: Mapping[str, str], *, with_token: bool = True) -> list[str]:
    """The subprotocols a client offers; the one that is a token is never answered with."""
    offered = [p.strip() for p in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return [p for p in offered if p and (with_token or not p.startswith(_BEARER_PROTOCOL))]


def service_account_groups(namespace: str) -> tuple[str, ...]:
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", _AUTHENTICATED)


def service_account_user(claims: Claims) -> UserInfo:
    extra: dict[str, tuple[str, ...]] = {}
    if claims.token_id:
        extra[_EXTRA + "credential-id"] = (f"JTI={claims.token_id}",)
    for kind, ref in (("pod", claims.pod), ("node", claims.node)):
        if ref is not None:
            extra[f"{_EXTRA}{kind}-name"] = (ref.name,)
            extra[f"{_EXTRA}{kind}-uid"] = (ref.uid,)
    name = f"system:serviceaccount:{claims.namespace}:{claims.name}"
    return UserInfo(name, claims.uid, service_account_groups(claims.namespace), extra)


def load_token_file(path: str) -> dict[str, UserInfo]:
    """Kubernetes' static token file: `token,user,uid,"group1,group2"` a line."""
    users: dict[str, UserInfo] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for line, record in enumerate(csv.reader(file), 1):
            if not record:
                continue
            if len(record) < 3:
                raise ValueError(f"{path}: line {line} has {len(record)} columns; needs token, user and uid at least")
            groups = tuple(g.strip() for g in (record[3] if len(record) > 3 else "").split(",") if g.strip())
            users[record[0]] = UserInfo(record[1], record[2], (*groups, _AUTHENTICATED))
    return users


class Authenticator:
    """Turns credentials into a user."""

    def __init__(
        self,
        verifier: TokenVerifier,
        cache: Cache,
        feed: CacheFeed,
        clock: Callable[[], float],
        static_tokens: Mapping[str, UserInfo] | None = None,
        *,
        bootstrap: BootstrapTokens | None = None,
        oidc: OidcVerifier | None = None,
    ) -> None:
        self._verifier = verifier
        self._cache = cache
        self._feed = feed
        self._clock = clock
        self._static = dict(static_tokens or {})
        self._bootstrap = bootstrap
        self._oidc = oidc
        self._users: dict[Claims, UserInfo] = {}
        self._marks_entry: Entry | None = None
        self._marks: Mapping[str, Any] = {}

    @property
    def verifier(self) -> TokenVerifier:
        return self._verifier

    async def authenticate(self, identity: CertIdentity | None, authorization: str) -> UserInfo:
        """ANONYMOUS when no credentials were given. Raises ApiError 401 for bad ones. A certificate that is void does
        not speak against a token that comes with it."""
        void = self._void(identity) if identity is not None else ""
        if identity is not None and not void:
            return identity.user
        if authorization:
            scheme, _, token = authorization.partition(" ")
            token = token.strip()
            if scheme.lower() != "bearer" or not token:
                self._refuse("unknown")
            try:
                return await self.user_of_token(token)
            except InvalidToken:
                self._refuse("token")
        if void:
            self._refuse(void)
        return ANONYMOUS

    def _void(self, identity: CertIdentity) -> str:
        """Why the certificate counts no more; "" when it does."""
        if self._clock() >= identity.not_after:
            return "expired certificate"
        return "forgotten machine" if identity.machine and self._is_forgotten(identity) else ""

    def _is_forgotten(self, identity: CertIdentity) -> bool:
        """One who changes what the ConfigMap says to something that is no time takes nobody's access away."""
        entry = self._cache.get(SCHEME.named("configmaps"), forgotten.NAMESPACE, forgotten.NAME)
        if entry is None:
            return False
        if entry is not self._marks_entry:
            self._marks_entry, self._marks = entry, entry.decode()
        try:
            when = forgotten.forgotten_at(self._marks, identity.machine)
        except ValueError:
            return False
        return not forgotten.counts(identity.not_before, when)

    @staticmethod
    def _refuse(why: str) -> None:
        metrics.AUTH_ATTEMPTS.labels("failure").inc()
        raise errors.unauthorized() from None

    async def user_of_token(self, token: str, audiences: tuple[str, ...] = ()) -> UserInfo:
        """Raises InvalidToken. `audiences` empty: the API server's own."""
        static = self._static.get(token)
        if static is not None:
            return static
        if self._bootstrap is not None and is_bootstrap_token(token):
            return await self._bootstrapping(token, self._bootstrap)
        if self._oidc is not None and self._oidc.speaks_of(token):
            return await self._oidc.user_of(token)
        claims = self._verifier.verify(token, audiences)
        if not self._alive(claims, token):
            await self._feed.barrier()
            if not self._alive(claims, token):
                raise InvalidToken("the service account, or what the token is bound to, no longer exists")
        user = self._users.get(claims)
        if user is None:
            if len(self._users) > 20_000:
                self._users.clear()
            user = self._users[claims] = service_account_user(claims)
        return user

    async def _bootstrapping(self, token: str, tokens: BootstrapTokens) -> UserInfo:
        user = tokens.user_of(token)
        if user is None:
            await self._feed.barrier()
            user = tokens.user_of(token)
        if user is None:
            raise InvalidToken("the bootstrap token is not known, expired or not for authentication")
        return user

    def _alive(self, claims: Claims, token: str) -> bool:
        account = Ref(claims.name, claims.uid)
        if not self._exists("serviceaccounts", claims.namespace, account):
            return False
        if claims.pod is not None and not self._exists("pods", claims.namespace, claims.pod):
            return False
        if claims.secret is None:
            return True
        if claims.secret.uid:
            return self._exists("secrets", claims.namespace, claims.secret)
        return self._keeps(claims.namespace, claims.secret.name, token)

    def _keeps(self, namespace: str, secret: str, token: str) -> bool:
        """Whether the Secret still holds this very token."""
        entry = self._cache.get(SCHEME.named("secrets"), namespace, secret)
        if entry is None:
            return False
        obj = entry.decode()
        kept = (obj.get("data") or {}).get("token", "")
        return "deletionTimestamp" not in obj["metadata"] and hmac.compare_digest(
            kept, base64.b64encode(token.encode()).decode()
        )

    def _exists(self, resource: str, namespace: str, ref: Ref) -> bool:
        entry = self._cache.get(SCHEME.named(resource), namespace, ref.name)
        return entry is not None and entry.meta.uid == ref.uid
