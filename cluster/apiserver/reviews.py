"""Kinds that are answered and never stored: token and access reviews, "who am I", and TokenRequest.

Awaits the authorizer.

Each handler takes the object a client posted and gives it back with its status. Source: authentication.k8s.io/v1,
authorization.k8s.io/v1, KEP-1205 (bound tokens).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cluster.api import errors
from cluster.api.meta import rfc3339
from cluster.api.scheme import SCHEME
from cluster.apiserver.authn import Authenticator
from cluster.apiserver.cache import Cache
from cluster.apiserver.call import Call, Reply
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.rules import RuleLister
from cluster.apiserver.tokens import InvalidToken, Ref, TokenSigner
from cluster.registry.context import UserInfo
from cluster.registry.types import Attributes, Authorizer

Object = dict[str, Any]

_MIN_SECONDS, _DEFAULT_SECONDS, _MAX_SECONDS = 600, 3600, 1 << 32


def _required(kind: str, group: str, field: str, text: str) -> errors.ApiError:
    return errors.invalid(kind, group, "", [errors.Cause("FieldValueRequired", f"Required value: {text}", field)])


def _attributes(spec: Mapping[str, Any], kind: str, namespace: str = "") -> Attributes:
    """What a review asks about. Raises ApiError 422 unless it asks about exactly one thing."""
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        cause = errors.Cause("FieldValueInvalid", f"Invalid value: {why}", "spec.resourceAttributes")
        raise errors.invalid(kind, "authorization.k8s.io", "", [cause])
    if path is not None:
        return Attributes(str(path.get("verb", "")), path=str(path.get("path", "")) or "/")
    r = resource or {}
    if namespace and r.get("namespace") != namespace:
        cause = errors.Cause(
            "FieldValueInvalid", "Invalid value: must match metadata.namespace", "spec.resourceAttributes"
        )
        raise errors.invalid(kind, "authorization.k8s.io", "", [cause])
    return Attributes(
        str(r.get("verb", "")),
        str(r.get("group", "")),
        str(r.get("resource", "")),
        str(r.get("subresource", "")),
        str(r.get("namespace", "")),
        str(r.get("name", "")),
        version=str(r.get("version", "")),
    )


class ReviewServer:
    """Serves `create` of the kinds in `scheme.REVIEWS`."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer, rules: RuleLister) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._rules = rules
        self._handlers: dict[str, Callable[[Call, Object], Awaitable[Object]]] = {
            "TokenReview": self._token_review,
            "SelfSubjectReview": self._self_subject,
            "SelfSubjectAccessReview": self._self_access,
            "SubjectAccessReview": self._access,
            "LocalSubjectAccessReview": self._access,
            "SelfSubjectRulesReview": self._self_rules,
        }

    async def create(self, call: Call) -> Reply:
        info = call.kind
        body = await call.object(optional=info.kind == "SelfSubjectReview")
        if body.get("kind", info.kind) != info.kind:
            raise errors.bad_request(f"the object provided is a {body['kind']}, not a {info.kind}")
        if info.kind != "SelfSubjectReview":  # which has nothing but metadata
            body = call.typed(body)
        spec = body.get("spec") or {}
        status = await self._handlers[info.kind](call, spec)
        meta = body.get("metadata") or {"creationTimestamp": None}
        out = {"kind": info.kind, "apiVersion": info.api_version, "metadata": meta, "spec": spec, "status": status}
        if info.kind == "SelfSubjectReview":
            del out["spec"]
        return Reply(201, obj=out)

    async def _decide(self, user: UserInfo, attributes: Attributes) -> Object:
        decision = await self._authorizer.authorize(user, attributes)
        out: Object = {"allowed": decision.allowed}
        if decision.reason:
            out["reason"] = decision.reason
        return out

    async def _self_access(self, call: Call, spec: Object) -> Object:
        return await self._decide(call.user, _attributes(spec, call.kind.kind))

    async def _access(self, call: Call, spec: Object) -> Object:
        if not spec.get("user") and not spec.get("groups"):
            text = "at least one of user or group must be specified"
            raise _required(call.kind.kind, "authorization.k8s.io", "spec.user", text)
        extra = {str(k).lower(): tuple(v) for k, v in (spec.get("extra") or {}).items()}
        user = UserInfo(str(spec.get("user", "")), str(spec.get("uid", "")), tuple(spec.get("groups") or ()), extra)
        return await self._decide(user, _attributes(spec, call.kind.kind, call.namespace))

    async def _self_subject(self, call: Call, spec: Object) -> Object:
        return {"userInfo": call.user.to_dict()}

    async def _self_rules(self, call: Call, spec: Object) -> Object:
        namespace = str(spec.get("namespace", ""))
        if not namespace:
            raise errors.bad_request("no namespace on request")
        return self._rules.rules_of(call.user, namespace)

    async def _token_review(self, call: Call, spec: Object) -> Object:
        if not spec.get("token"):
            raise errors.bad_request("token is required for TokenReview in authentication")
        asked = tuple(spec.get("audiences") or ())
        audiences = asked or self._authenticator.verifier.audiences
        try:
            user = await self._authenticator.user_of_token(str(spec["token"]), audiences)
        except InvalidToken as e:
            return {"authenticated": False, "user": {}, "error": str(e)}
        return {"authenticated": True, "user": user.to_dict(), "audiences": list(audiences)}


class TokenServer:
    """Serves `serviceaccounts/<name>/token`.

    A machine's identity may only ask for tokens bound to a pod that runs on that machine under that account
    (NodeRestriction); everybody else needs the verb `create` on `serviceaccounts/token`, which the edge has checked.
    """

    def __init__(
        self, signer: TokenSigner, cache: Cache, feed: CacheFeed, audiences: tuple[str, ...], clock: Callable[[], float]
    ) -> None:
        self._signer = signer
        self._cache = cache
        self._feed = feed
        self._audiences = audiences
        self._clock = clock

    async def create(self, call: Call) -> Reply:
        spec = (await call.review(optional=True)).get("spec") or {}
        namespace, name = call.namespace, call.info.name
        await self._feed.barrier()
        account = self._cache.get(call.kind, namespace, name)
        if account is None:
            raise errors.not_found(call.kind, name)
        seconds = self._seconds(spec)
        bound = self._bound(call, spec.get("boundObjectRef"))
        audiences = tuple(str(a) for a in spec.get("audiences") or ()) or self._audiences
        token, expires = self._signer.sign(
            namespace, name, account.meta.uid, audiences=audiences, seconds=seconds, **bound
        )
        out = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": rfc3339(self._clock())},
            "spec": {
                "audiences": list(audiences),
                "expirationSeconds": seconds,
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": rfc3339(expires)},
        }
        return Reply(201, obj=out)

    @staticmethod
    def _seconds(spec: Mapping[str, Any]) -> int:
        raw = spec.get("expirationSeconds")
        seconds = _DEFAULT_SECONDS if raw is None else raw
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
            why = "may not specify a duration less than 10 minutes or larger than 2^32 seconds"
            cause = errors.Cause("FieldValueInvalid", f"Invalid value: {seconds}: {why}", "spec.expirationSeconds")
            raise errors.invalid("TokenRequest", "authentication.k8s.io", "", [cause])
        return seconds

    def _bound(self, call: Call, ref: Mapping[str, Any] | None) -> dict[str, Ref]:
        machine = call.user.node_name
        if not ref:
            if machine:
                raise self._refused(call, f"node {machine!r} may only request tokens bound to one of its pods")
            return {}
        kind, name = str(ref.get("kind", "")), str(ref.get("name", ""))
        resource = {"Pod": "pods", "Secret": "secrets"}.get(kind)
        if resource is None:
            raise errors.bad_request(f"cannot bind token to object of type {ref.get('apiVersion', '')}, Kind={kind}")
        if machine and kind != "Pod":
            raise self._refused(call, f"node {machine!r} may only request tokens bound to pods")
        info = SCHEME.named(resource)
        entry = self._cache.get(info, call.namespace, name)
        if entry is None:
            raise errors.not_found(info, name)
        uid = entry.meta.uid
        if ref.get("uid") and ref["uid"] != uid:
            why = f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record ({uid})"
            raise errors.conflict(info, name, why)
        if kind == "Secret":
            return {"secret": Ref(name, uid)}
        pod = entry.decode()
        account = pod["spec"].get("serviceAccountName") or "default"
        if account != call.info.name:
            raise errors.bad_request(
                f"cannot bind token for serviceaccount {call.info.name!r} to pod running with {account!r}"
            )
        if machine and entry.node != machine:
            raise self._refused(call, f"node {machine!r} may only request tokens for pods that run on it")
        bound = {"pod": Ref(name, uid)}
        node = self._cache.get(SCHEME.named("nodes"), "", entry.node) if entry.node else None
        if node is not None:
            bound["node"] = Ref(entry.node, node.meta.uid)
        return bound

    @staticmethod
    def _refused(call: Call, why: str) -> errors.ApiError:
        return errors.forbidden(call.kind, call.info.name, why)
