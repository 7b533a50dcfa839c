"""May they: attributes of a request, Kubernetes' words when they may not, and impersonation.

Awaits only the authorizer.

The edge authorizes every request once, before it reads a body; the registry asks the same authorizer again for what it
is asked to do, so a write is never less checked than a read. Source: apiserver/pkg/endpoints/filters (authorization,
impersonation).
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from cluster.api import errors
from cluster.apiserver.authn import ANONYMOUS, service_account_groups
from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry.context import UserInfo
from cluster.registry.core import denied
from cluster.registry.types import Attributes, Authorizer

_ACCOUNT = "system:serviceaccount:"
_EXTRA = "impersonate-extra-"


def attributes_of(info: RequestInfo, field_selector: str = "") -> Attributes:
    if not info.is_resource:
        return Attributes(info.verb, path=info.path)
    return Attributes(
        info.verb,
        info.group,
        info.resource,
        info.subresource,
        info.namespace,
        info.name,
        version=info.version,
        field_selector=field_selector,
    )


async def require(authorizer: Authorizer, user: UserInfo, attributes: Attributes) -> None:
    """Raises ApiError 403 with Kubernetes' message."""
    decision = await authorizer.authorize(user, attributes)
    if not decision.allowed:
        raise denied(user.name, attributes, decision.reason)


async def impersonated(authorizer: Authorizer, user: UserInfo, headers: CIMultiDictProxy[str]) -> UserInfo:
    """The user that Impersonate-* headers ask for, each part authorized; `user` itself without them."""
    name = headers.get("Impersonate-User", "")
    groups = headers.getall("Impersonate-Group", [])
    uid = headers.get("Impersonate-Uid", "")
    extra = _extra(headers)
    if not name:
        if groups or uid or extra:
            raise errors.bad_request(
                "requested impersonation of groups, uid or extra without a user: set Impersonate-User"
            )
        return user
    for attributes in _impersonations(name, uid, groups, extra):
        await require(authorizer, user, attributes)
    return _as_user(name, uid, groups, extra)


def _extra(headers: CIMultiDictProxy[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for key, value in headers.items():
        if key.lower().startswith(_EXTRA):
            found.setdefault(unquote(key[len(_EXTRA) :].lower()), []).append(value)
    return {k: tuple(v) for k, v in found.items()}


def _account_of(name: str) -> tuple[str, str] | None:
    if not name.startswith(_ACCOUNT):
        return None
    namespace, _, account = name[len(_ACCOUNT) :].partition(":")
    return (namespace, account) if namespace and account else None


def _impersonations(name: str, uid: str, groups: Sequence[str], extra: dict[str, tuple[str, ...]]) -> list[Attributes]:
    account = _account_of(name)
    if account is not None:
        asked = [Attributes("impersonate", "", "serviceaccounts", "", account[0], account[1])]
    else:
        asked = [Attributes("impersonate", "", "users", name=name)]
    asked += [Attributes("impersonate", "", "groups", name=g) for g in groups]
    if uid:
        asked.append(Attributes("impersonate", "authentication.k8s.io", "uids", name=uid))
    for key, values in extra.items():
        asked += [Attributes("impersonate", "authentication.k8s.io", "userextras", key, name=v) for v in values]
    return asked


def _as_user(name: str, uid: str, groups: Sequence[str], extra: dict[str, tuple[str, ...]]) -> UserInfo:
    account = _account_of(name)
    full = list(groups)
    if account is not None and not groups:
        full = list(service_account_groups(account[0]))
    mark = "system:unauthenticated" if name == ANONYMOUS.name else "system:authenticated"
    if mark not in full:
        full.append(mark)
    return UserInfo(name, uid, tuple(full), extra)
