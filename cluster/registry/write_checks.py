"""What a write must satisfy by itself, and what it says when it does not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cluster.api import errors
from cluster.api.errors import ApiError, Cause
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry.context import RequestContext
from cluster.registry.core import Guard
from cluster.registry.store import KeyValue
from cluster.registry.strategies import Strategy
from cluster.registry.types import Stored

Object = dict[str, Any]

_MAX_WARNINGS = 64


def misplaced(info: ResourceInfo, kind: str, version: str) -> ApiError:
    """An object of another kind or version was sent to where `info` lives."""
    short = version.rpartition("/")[2]
    if SCHEME.for_object({"kind": kind, "apiVersion": version}) is None:
        why = f'no kind "{kind}" is registered for version "{version}" in scheme'
    elif kind == info.kind:
        why = f"the API version in the data ({version}) does not match the expected API version ({info.api_version})"
        return errors.bad_request(why)
    else:
        internal = info.group.partition(".")[0] or "core"
        why = f"converting ({short}.{kind}) to ({internal}.{info.kind}): unknown conversion"
    return errors.bad_request(f'{kind} in version "{short}" cannot be handled as a {info.kind}: {why}')


def check_type(info: ResourceInfo, body: Object) -> None:
    """A custom object says of itself what it is; raises 400 and 422 where that is something else."""
    kind, version = body.get("kind"), body.get("apiVersion")
    if version and version != info.api_version:
        raise errors.bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({info.api_version})"
        )
    if kind and kind != info.kind:
        fault = Cause("FieldValueInvalid", f'Invalid value: "{kind}": must be {info.kind}', "kind")
        metadata = body.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        raise errors.invalid(kind, info.group, str(name), [fault])


def warn(ctx: RequestContext, text: str) -> None:
    if text and text not in ctx.warnings:
        ctx.warnings.append(text)


def advise(ctx: RequestContext, texts: Iterator[str]) -> None:
    """Once, however often the write is tried; and no more than an answer can carry."""
    for text in texts:
        if len(ctx.warnings) >= _MAX_WARNINGS:
            return
        warn(ctx, text)


def check_namespace(info: ResourceInfo, namespace: str, metadata: Object) -> None:
    """Fill in the request's namespace; raises 400 when the object names another."""
    if not info.namespaced:
        metadata.pop("namespace", None)
        return
    if not namespace:
        raise errors.bad_request("an empty namespace may not be set during creation")
    if metadata.setdefault("namespace", namespace) != namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def unchanged_object(new: Object, old: Object) -> bool:
    """Equal but for resourceVersion and for managedFields timestamps."""
    if any(new.get(k) != old.get(k) for k in {**new, **old} if k != "metadata"):
        return False
    a, b = new["metadata"], old["metadata"]
    return all(a.get(k) == b.get(k) for k in {**a, **b} if k != "resourceVersion")


def to_generate(obj: Object) -> str:
    """The prefix of a name that is asked for; "" when the object has a name, or will have none."""
    metadata = obj["metadata"]
    return "" if metadata.get("name") else str(metadata.get("generateName") or "")


def manager_of(ctx: RequestContext) -> str:
    return ctx.field_manager or ctx.user.name


def refuse(info: ResourceInfo, obj: Object, causes: list[errors.Cause]) -> None:
    if causes:
        name = obj["metadata"].get("name") or obj["metadata"].get("generateName") or ""
        raise errors.invalid(info.kind, info.group, name, causes)


def free(info: ResourceInfo, name: str, key: bytes) -> Guard:
    def exists(kv: KeyValue | None) -> ApiError:
        return errors.already_exists(info, name)

    return Guard((key, "create", "=", 0), exists)


def finished(obj: Object, strategy: Strategy) -> bool:
    """Being deleted, with nothing left to wait for."""
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
        return False
    if not strategy.custom and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not strategy.graceful or not metadata.get("deletionGracePeriodSeconds")


def check_preconditions(info: ResourceInfo, current: Stored, name: str, metadata: Object) -> bool:
    """Whether the writer named the revision that it wants to replace. Raises 409 when it named another one, or another
    object of the name."""
    wanted = metadata.get("resourceVersion", "")
    if wanted and wanted != str(current.revision):
        raise errors.conflict(info, name)
    uid = metadata.get("uid") or current.uid
    if uid != current.uid:
        raise errors.conflict(info, name, errors.other_uid(uid, current.uid, current.key))
    return bool(wanted)


def gone_or_stale(info: ResourceInfo, name: str, conditional: bool) -> Callable[[KeyValue | None], ApiError | None]:
    """What a write says that lost its compare-and-swap; None: it is made again from what is there now."""

    def fail(kv: KeyValue | None) -> ApiError | None:
        if conditional:
            return errors.conflict(info, name)
        return None if kv is not None else errors.not_found(info, name)

    return fail
