"""From method, path and query to what a request asks for: verb, group, version, resource, namespace, name. Pure.

Invariants: a path that is not canonical (empty, "." or ".." segments, an encoded slash or control character in a name)
never becomes a resource request; it raises BadPath. Everything downstream (authorization above all) sees one parse.

Source: Kubernetes apiserver/pkg/endpoints/request/requestinfo.go (rules, not text).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

from cluster.api import errors, goduration

_METHOD_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
# Subresources below which the rest of the path belongs to somebody else (a proxied server).
_OPEN_ENDED = frozenset({"proxy"})
# Paths whose parse is kept, and how long they may be: whoever sends them need not be known.
_REMEMBERED, _REMEMBERED_LENGTH = 4096, 300
_LONG_RUNNING_SUBRESOURCES = frozenset({"exec", "attach", "portforward", "log", "proxy"})


class BadPath(ValueError):
    """The path is not one a well-meaning client sends."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`verb` is Kubernetes' verb for resources, the lower-case method otherwise. Empty strings stand for "none"."""

    path: str
    verb: str
    is_resource: bool = False
    prefix: str = ""
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    rest: str = ""

    @property
    def mutating(self) -> bool:
        return self.verb in ("create", "update", "patch", "delete", "deletecollection", "post", "put")

    @property
    def long_running(self) -> bool:
        return self.verb == "watch" or self.subresource in _LONG_RUNNING_SUBRESOURCES


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """The raw request target as (raw path, query); of a repeated parameter the first counts, as in Kubernetes."""
    path, mark, query = target.partition("?")
    if not mark:
        return path, {}
    params: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        params.setdefault(key, value)
    return path, params


def multi(target: str, key: str) -> list[str]:
    """Every value of a repeatable query parameter (`command=` of exec)."""
    return [v for k, v in parse_qsl(target.partition("?")[2], keep_blank_values=True) if k == key]


def flag(params: Mapping[str, str], key: str) -> bool:
    """A boolean parameter: present and not "0" or "false" (so `?watch` alone is true)."""
    value = params.get(key)
    return value is not None and value.lower() not in ("0", "false")


def timeout_s(params: Mapping[str, str], maximum_s: float) -> float:
    """What a request may take: its `timeout` (a Go duration), at most `maximum_s`; 0 and nothing mean the maximum.

    Raises ApiError 400. Source: Kubernetes apiserver/pkg/endpoints/filters/request_deadline.go.
    """
    text = params.get("timeout", "")
    if not text:
        return maximum_s
    try:
        wanted_s = goduration.parse(text)
    except goduration.BadDuration as e:
        raise errors.bad_request(f"invalid timeout specified in the request URL - {e}") from e
    return min(wanted_s, maximum_s) if wanted_s > 0 else maximum_s


def _segments(raw_path: str) -> list[str]:
    if not raw_path.startswith("/"):
        raise BadPath(f"the path {raw_path!r} does not start with a slash")
    parts = raw_path[1:].split("/")
    if parts and parts[-1] == "":
        parts.pop()
    if "%" in raw_path:
        parts = [unquote(p, errors="strict") for p in parts]
    return parts


def _check(parts: list[str]) -> None:
    for part in parts:
        if part in ("", ".", "..") or "/" in part or "\\" in part or not part.isprintable():
            raise BadPath(f"invalid path segment {part!r}")


def parse(method: str, raw_path: str, params: Mapping[str, str]) -> RequestInfo:
    """Raises BadPath. A path outside /api/<v>/ and /apis/<g>/<v>/ is a non-resource request."""
    if params or len(raw_path) > _REMEMBERED_LENGTH:
        return _parse(method, raw_path, params)
    return _parse_plain(method, raw_path)


@lru_cache(maxsize=_REMEMBERED)  # leases are renewed, statuses written and kinds created at the same few paths
def _parse_plain(method: str, raw_path: str) -> RequestInfo:
    return _parse(method, raw_path, {})


def _parse(method: str, raw_path: str, params: Mapping[str, str]) -> RequestInfo:
    try:
        parts = _segments(raw_path)
    except UnicodeDecodeError as e:
        raise BadPath("the path is not UTF-8") from e
    path = "/" + "/".join(parts)
    prefix = parts[0] if parts else ""
    if prefix == "api" and len(parts) >= 3:
        group, version, tail = "", parts[1], parts[2:]
    elif prefix == "apis" and len(parts) >= 4:
        group, version, tail = parts[1], parts[2], parts[3:]
    else:
        _check(parts)
        return RequestInfo(path, method.lower())
    verb = _METHOD_VERBS.get(method, "")
    watch = flag(params, "watch")
    if tail[0] == "watch" and len(tail) > 1:
        watch, tail = True, tail[1:]
    namespace = ""
    if tail[0] == "namespaces" and len(tail) > 1:
        namespace = tail[1]
        if len(tail) > 2 and tail[2] not in _NAMESPACE_SUBRESOURCES:
            tail = tail[2:]
    resource = tail[0]
    name = tail[1] if len(tail) > 1 else ""
    subresource = tail[2] if len(tail) > 2 else ""
    rest = ""
    if len(tail) > 3:
        if subresource not in _OPEN_ENDED:
            raise BadPath(f"the path {path!r} has more segments than a resource")
        consumed = len(parts) - (len(tail) - 3)
        rest = "/".join(raw_path[1:].split("/")[consumed:])
        _check(parts[:consumed])
    else:
        _check(parts)
    if not name:
        name, verb = _collection(verb, watch, params)
    return RequestInfo(path, verb, True, prefix, group, version, namespace, resource, subresource, name, rest)


def _collection(verb: str, watch: bool, params: Mapping[str, str]) -> tuple[str, str]:
    """Name and verb of a request on a collection; a field selector on the name names it (RBAC's resourceNames)."""
    if verb == "delete":
        return "", "deletecollection"
    if verb != "get":
        return "", verb
    name = ""
    for term in params.get("fieldSelector", "").split(","):
        key, sep, value = term.partition("=")
        if sep and key.strip() == "metadata.name":
            name = value.lstrip("=").strip()
    return name, "watch" if watch else "list"
