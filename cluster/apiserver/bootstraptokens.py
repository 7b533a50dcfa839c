"""Bootstrap tokens: `abcdef.0123456789abcdef`, kept as Secrets in kube-system, for machines that are to join.

Reads the cache only. Source: KEP-130, plugin/pkg/auth/authenticator/token/bootstrap.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable

from cluster.api import bootstrap_tokens as tokens
from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache
from cluster.registry.context import UserInfo

_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})", re.ASCII)
_GROUP = "system:bootstrappers"
_EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]", re.ASCII)


def is_bootstrap_token(token: str) -> bool:
    return _TOKEN.fullmatch(token) is not None


class BootstrapTokens:
    def __init__(self, cache: Cache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock

    def user_of(self, token: str) -> UserInfo | None:
        """None unless the token's Secret says that it is valid now and may be used to authenticate."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        token_id, secret = match.groups()
        entry = self._cache.get(SCHEME.named("secrets"), tokens.NAMESPACE, tokens.NAME_PREFIX + token_id)
        if entry is None:
            return None
        obj = entry.decode()
        data = tokens.decoded(obj)
        if obj.get("type") != tokens.SECRET_TYPE or "deletionTimestamp" in obj["metadata"]:
            return None
        same = hmac.compare_digest(data.get("token-secret", ""), secret) and data.get("token-id") == token_id
        if not same or data.get("usage-bootstrap-authentication") != "true" or tokens.is_expired(data, self._clock()):
            return None
        extra = [g.strip() for g in data.get("auth-extra-groups", "").split(",") if g.strip()]
        if not all(_EXTRA_GROUP.fullmatch(g) for g in extra):
            return None
        return UserInfo(f"system:bootstrap:{token_id}", groups=(_GROUP, *sorted(set(extra)), "system:authenticated"))
