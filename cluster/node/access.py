"""Who may ask a kubelet for what; the API server says so where the caller is not one of its own.

IO: TokenReviews and SubjectAccessReviews.

    certificate of a trusted group (API servers, system:masters) ──> everything, without asking anybody
    another certificate of the cluster's CA ─┐
    Authorization: Bearer ── TokenReview ────┴─ SubjectAccessReview of nodes/metrics, nodes/stats, ... ──> 403 or on
    neither ──> 401

So a Prometheus or a metrics-server scrapes kubelets with its service account's token and the roles it brings along.
Answers are kept as long as kubelets keep them. What can change a pod (exec, attach, port-forward) is `create`, though
it is asked for by GET: who may but read `nodes/proxy` runs no commands. (The API server's proxy asks the same of whom
it passes on: cluster/apiserver/proxying.py.)

Source: Kubernetes pkg/kubelet/server/auth.go (with the finer subresources of KEP-2862), webhook authentication's and
authorization's defaults.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.nodes import changes_pods
from cluster.machinery.client import Client
from cluster.machinery.mtls import groups_of, name_of

Obj = dict[str, Any]
User = Obj
"""`username`, `uid`, `groups`, `extra`, as a TokenReview has them."""

TOKEN_S, ALLOWED_S, DENIED_S = 120.0, 300.0, 30.0
AT_ONCE = 4
"""So many reviews of a kind are under way at a time: more of them wait here, not at the API server."""
MOST_WAITING = 64
"""More than so many are turned away: whoever reaches the port can ask, without being known."""
_MOST, _MOST_REFUSED = 1024, 256
_AUTHENTICATED = "system:authenticated"
_BEARER = "bearer "
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = {
    "metrics": ("metrics",),
    "stats": ("stats",),
    "logs": ("log",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "configz": ("configz", "proxy"),
    "healthz": ("healthz", "proxy"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Any one of `subresources` is enough."""

    verb: str
    subresources: tuple[str, ...]


def asked_for(method: str, route: str) -> Asked:
    """`route` is the path of the page as it is registered, "" where there is none."""
    page = route.split("/")[1] if route.startswith("/") else ""
    verb = "create" if changes_pods(route) else _VERBS.get(method, "get")
    return Asked(verb, _SUBRESOURCES.get(page, ("proxy",)))


V = TypeVar("V")


class _Answers(Generic[V]):
    """What one kind of review answered, until its time is over. Refusals have places of their own: made-up tokens push
    out no good answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._granted: dict[Any, tuple[float, V]] = {}
        self._refused: dict[Any, tuple[float, V]] = {}

    async def of(self, key: Any, ask: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        """`ask` gives an answer, falsy for a refusal, and the seconds that it is good for. Raises ApiError 503 when too
        many wait."""
        answer = self._kept(key)
        if answer is not None:
            return answer
        if self._waiting >= MOST_WAITING:
            raise errors.service_unavailable("too many ask this kubelet who they are")
        self._waiting += 1
        try:
            async with self._turns:
                answer = self._kept(key)  # somebody before us may have asked the same
                if answer is None:
                    now = self._clock()
                    answer, good_s = await ask()
                    self._keep(key, answer, now + good_s)
        finally:
            self._waiting -= 1
        return answer

    def _kept(self, key: Any) -> V | None:
        until, answer = self._granted.get(key) or self._refused.get(key) or (0.0, None)
        return answer if until > self._clock() else None

    def _keep(self, key: Any, answer: V, until: float) -> None:
        self._granted.pop(key, None)
        self._refused.pop(key, None)
        answers, most = (self._granted, _MOST) if answer else (self._refused, _MOST_REFUSED)
        if len(answers) >= most:
            del answers[next(iter(answers))]
        answers[key] = (until, answer)


class Access:
    """`trusted_groups` are asked nothing. `clock` is monotonic, in seconds."""

    def __init__(
        self, client: Client, node_name: str, trusted_groups: tuple[str, ...], *, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._node = node_name
        self._trusted = frozenset(trusted_groups)
        self._users: _Answers[User] = _Answers(clock)
        self._decisions: _Answers[bool] = _Answers(clock)

    async def require(self, certificate: Any, headers: Mapping[str, str], asked: Asked) -> None:
        """`certificate`: the peer's, verified, as `ssl` shows it. Raises ApiError 401 when it is not known who asks,
        403 when he may not, 503 when the API server does not say."""
        groups = groups_of(certificate)
        if groups & self._trusted:
            return
        if name := name_of(certificate):
            user: User = {"username": name, "groups": sorted(groups | {_AUTHENTICATED})}
        else:
            user = await self._user_of(headers.get("Authorization", ""))
        for subresource in asked.subresources:
            if await self._allowed(user, asked.verb, subresource):
                return
        raise ApiError(
            403,
            "Forbidden",
            f"Forbidden (user={user['username']}, verb={asked.verb}, resource=nodes, "
            f"subresource(s)=[{' '.join(asked.subresources)}])",
        )

    async def _user_of(self, authorization: str) -> User:
        token = authorization[len(_BEARER) :].strip()
        if not authorization.lower().startswith(_BEARER) or not token or not token.isascii():
            raise errors.unauthorized()  # RFC 6750: a token is ASCII; bytes that are not are surrogates here
        key = hashlib.sha256(token.encode()).digest()
        user = await self._users.of(key, lambda: self._authenticated(token))
        if not user:
            raise errors.unauthorized()
        return user

    async def _authenticated(self, token: str) -> tuple[User, float]:
        status = await self._review("tokenreviews.authentication.k8s.io", "TokenReview", {"token": token})
        return (status["user"], TOKEN_S) if status.get("authenticated") else ({}, DENIED_S)

    async def _allowed(self, user: User, verb: str, subresource: str) -> bool:
        groups, extra = tuple(user.get("groups") or ()), user.get("extra") or {}
        key = (user["username"], user.get("uid", ""), groups, repr(sorted(extra.items())), verb, subresource)
        what = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self._node}
        spec = {"user": user["username"], "uid": user.get("uid", ""), "groups": list(groups), "extra": extra}
        spec["resourceAttributes"] = what
        return await self._decisions.of(key, lambda: self._authorized(spec))

    async def _authorized(self, spec: Obj) -> tuple[bool, float]:
        status = await self._review("subjectaccessreviews.authorization.k8s.io", "SubjectAccessReview", spec)
        return (True, ALLOWED_S) if status.get("allowed") else (False, DENIED_S)

    async def _review(self, resource: str, kind: str, spec: Obj) -> Obj:
        group = resource.partition(".")[2]
        try:
            answer = await self._client.create(resource, {"kind": kind, "apiVersion": f"{group}/v1", "spec": spec})
        except ApiError as err:
            raise errors.service_unavailable(f"the API server does not answer a {kind}: {err.message}") from err
        status: Obj = answer.get("status") or {}
        return status
