"""API errors: one exception that carries a Kubernetes `Status`.

Pure. Every failure that a client may see is an ApiError; registry, HTTP server and HTTP clients share it, so a
controller handles "NotFound" the same in process and over the wire. Texts and reasons are those of
k8s.io/apimachinery `api/errors`.

    ApiError
    └── FenceLost     a leased writer's fencing compare failed: stop being the leader, never retry
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Resource(Protocol):
    """What an error needs to know of a resource; `cluster.api.scheme.ResourceInfo` fulfils it."""

    @property
    def group(self) -> str: ...
    @property
    def plural(self) -> str: ...


def _split(resource: Resource | str) -> tuple[str, str]:
    if isinstance(resource, str):
        plural, _, group = resource.partition(".")
        return plural, group
    return resource.plural, resource.group


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


@dataclass(frozen=True, slots=True)
class Cause:
    """One field's fault: `reason` is a Kubernetes cause type (FieldValueInvalid, ...), `field` a path as in
    spec.x[0].
    """

    reason: str
    message: str
    field: str

    def to_dict(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Exception):
    """A Kubernetes Status with status Failure. `continue_token`: where a list whose revision is gone can go on."""

    continue_token = ""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.reason, self.message, self.details)

    def status(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:  # {} says something too: kubectl reads it of an unknown path
            out["details"] = self.details
        out["code"] = self.code
        return out

    @classmethod
    def from_status(cls, status: dict[str, Any]) -> ApiError:
        return ApiError(
            int(status.get("code") or 500),
            str(status.get("reason") or ""),
            str(status.get("message") or ""),
            status.get("details"),
        )

    @property
    def retry_after_s(self) -> int:
        """Seconds after which the server asks to be tried again; 0 when it does not ask."""
        return int((self.details or {}).get("retryAfterSeconds") or 0)


class FenceLost(ApiError):
    """The writer's lease key is no longer the one it was elected with."""


def not_found(resource: Resource | str, name: str) -> ApiError:
    plural, group = _split(resource)
    details = {"name": name, "group": group, "kind": plural}
    return ApiError(404, "NotFound", f'{_qualified(plural, group)} "{name}" not found', _clean(details))


def path_not_found() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource | str, name: str) -> ApiError:
    plural, group = _split(resource)
    details = {"name": name, "group": group, "kind": plural}
    return ApiError(409, "AlreadyExists", f'{_qualified(plural, group)} "{name}" already exists', _clean(details))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: Resource | str, name: str, why: str = MODIFIED) -> ApiError:
    plural, group = _split(resource)
    message = f'Operation cannot be fulfilled on {_qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _clean({"name": name, "group": group, "kind": plural}))


def other_uid(wanted: str, present: str, key: bytes = b"") -> str:
    """Why a write that names a uid fails; with the store's `key` in the words of etcd3's storage layer."""
    why = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {present}"
    if not key:
        return why
    place = f"Code: 4, Key: {key.decode(errors='replace')}, ResourceVersion: 0"
    return f"StorageError: invalid object, {place}, AdditionalErrorMsg: {why}"


def fence_lost(why: str) -> FenceLost:
    return FenceLost(409, "Conflict", f"Operation cannot be fulfilled: {why}", {"kind": "leases"})


def apply_conflict(causes: Sequence[Cause]) -> ApiError:
    """Server-side apply met fields that others own; each cause's message names the owner."""
    managers: dict[str, list[str]] = {}
    for c in causes:
        managers.setdefault(c.message, []).append(c.field)
    parts = [
        f"{message}: {fields[0]}" if len(fields) == 1 else f"{message}:\n" + "\n".join(f"- {f}" for f in fields)
        for message, fields in managers.items()
    ]
    plural = "s" if len(causes) != 1 else ""
    head = f"Apply failed with {len(causes)} conflict{plural}: "
    sep = "" if len(parts) == 1 else "conflicts "
    message = head + (parts[0] if not sep else "\n".join(parts))
    return ApiError(409, "Conflict", message, {"causes": [c.to_dict() for c in causes]})


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    qualified = f"{kind}.{group}" if group else kind
    texts = list(dict.fromkeys(str(c) for c in causes))
    what = "<nil>" if not texts else texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _clean({"name": name, "group": group, "kind": kind})
    if causes:
        details["causes"] = [c.to_dict() for c in causes]
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {what}', details)


def forbidden(
    resource: Resource | str, name: str, why: str, *, causes: Sequence[Cause] = (), retry_after_s: int = 0
) -> ApiError:
    plural, group = _split(resource)
    qualified = _qualified(plural, group)
    if not plural:
        message = f"forbidden: {why}"
    elif not name:
        message = f"{qualified} is forbidden: {why}"
    else:
        message = f'{qualified} "{name}" is forbidden: {why}'
    details = _clean({"name": name, "group": group, "kind": plural})
    if causes:
        details["causes"] = [c.to_dict() for c in causes]
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    return ApiError(403, "Forbidden", message, details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> ApiError:
    return ApiError(401, "Unauthorized", message)


def method_not_supported(resource: Resource | str, action: str) -> ApiError:
    plural, group = _split(resource)
    message = f'{action} is not supported on resources of kind "{_qualified(plural, group)}"'
    return ApiError(405, "MethodNotAllowed", message, _clean({"group": group, "kind": plural}))


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def not_acceptable(accepted: Sequence[str] = ()) -> ApiError:
    message = "only the following media types are accepted: " + ", ".join(accepted or ("application/json",))
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(accepted: Sequence[str] = ()) -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", message + ", ".join(accepted or ("application/json",)))


def expired(message: str, continue_token: str = "") -> ApiError:
    """A resource version or continue token older than the store's history (410)."""
    error = ApiError(410, "Expired", message)
    error.continue_token = continue_token
    return error


def gone(message: str) -> ApiError:
    return ApiError(410, "Gone", message)


def too_many_requests(message: str, retry_after_s: int = 1) -> ApiError:
    return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": retry_after_s})


def internal(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def timeout(message: str, retry_after_s: int = 0) -> ApiError:
    """504: it is not known whether the request took effect."""
    details = {"retryAfterSeconds": retry_after_s} if retry_after_s else None
    return ApiError(504, "Timeout", f"Timeout: {message}", details)


def server_timeout(resource: Resource | str, operation: str, retry_after_s: int = 0) -> ApiError:
    """500 ServerTimeout: the request took no effect and may be tried again."""
    plural, group = _split(resource)
    message = (
        f"The {operation} operation against {_qualified(plural, group)} could not be completed at this time, "
        "please try again."
    )
    details: dict[str, Any] = _clean({"name": operation, "group": group, "kind": plural})
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    return ApiError(500, "ServerTimeout", message, details)


def service_unavailable(message: str, retry_after_s: int = 1) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message, {"retryAfterSeconds": retry_after_s})


def too_large(message: str) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: {message}")


def _clean(details: dict[str, str]) -> dict[str, Any]:
    return {k: v for k, v in details.items() if v}
