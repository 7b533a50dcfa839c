"""Service account tokens for pods: bound to the pod, renewed before they end.

IO only through the injected Client. Source: KEP-542 (TokenRequest), projected serviceAccountToken: a token is renewed
when 80 % of its life is over, or after 24 h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.api.meta import parse_time
from cluster.machinery.client import Client

Obj = dict[str, Any]
_DAY_S = 86400.0
_DEFAULT_LIFE_S = 3600


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float


class PodTokens:
    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._tokens: dict[tuple[str, str, int], _Token] = {}  # (pod uid, audience, life)

    async def token(self, pod: Obj, source: Obj) -> str:
        """The current token for a projected source of a pod; a fresh one when it is due. Raises ApiError."""
        meta = pod["metadata"]
        audience = str(source.get("audience") or "")
        life = int(source.get("expirationSeconds") or _DEFAULT_LIFE_S)
        key = (str(meta["uid"]), audience, life)
        kept = self._tokens.get(key)
        now = self._clock()
        if kept is not None and now < kept.renew_at:
            return kept.value
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": life,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        account = str(pod["spec"].get("serviceAccountName") or "default")
        answer = await self._client.create(
            "serviceaccounts", request, meta["namespace"], subresource="token", name=account
        )
        status = answer["status"]
        ends = parse_time(status["expirationTimestamp"])
        self._tokens[key] = _Token(str(status["token"]), now + min(max(ends - now, 0.0) * 0.8, _DAY_S))
        return str(status["token"])

    def forget(self, uid: str) -> None:
        for key in [k for k in self._tokens if k[0] == uid]:
            del self._tokens[key]
