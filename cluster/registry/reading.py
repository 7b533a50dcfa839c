"""Get, list and watch.

IO only through Core. Lists are at one revision, also across pages: a continue token carries the revision and where to
go on. A watch delivers each change once, in order; with selectors, an object that starts or stops matching is ADDED
or DELETED, so a client's set is right without knowing the others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import orjson

from cluster.api import errors
from cluster.api.scheme import ResourceInfo
from cluster.api.selectors import FieldSelector, LabelSelector
from cluster.registry import keys
from cluster.registry.core import Core, from_store_error
from cluster.registry.store import EVERY_PREVIOUS, PREVIOUS_OF_DELETES, Event, RangeResult, prefix_end
from cluster.registry.types import Stored, StoredList, WatchEvent

_PAGE = 500
_MAX_DIGITS = 32

_FIELDS: dict[str, frozenset[str]] = {
    "pods": frozenset(
        ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
         "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName")
    ),
    "events": frozenset(
        ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
         "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
         "reportingComponent", "source", "type")
    ),
    "secrets": frozenset(("type",)),
    "nodes": frozenset(("spec.unschedulable",)),
    "namespaces": frozenset(("status.phase", "name")),
    "services": frozenset(("spec.clusterIP", "spec.type")),
    "replicasets.apps": frozenset(("status.replicas",)),
    "replicationcontrollers": frozenset(("status.replicas",)),
    "jobs.batch": frozenset(("status.successful",)),
    "certificatesigningrequests.certificates.k8s.io": frozenset(("spec.signerName",)),
    "resourceslices.resource.k8s.io": frozenset(("spec.driver", "spec.nodeName")),
}  # fmt: skip


def check_fields(info: ResourceInfo, selector: FieldSelector | None) -> None:
    """Raises 400 for a field this resource does not select on."""
    if selector is None:
        return
    allowed = _FIELDS.get(info.name, frozenset()) if info.custom is None else frozenset(info.custom.selectable)
    for term in selector.terms:
        if term.path == "metadata.name" or (term.path == "metadata.namespace" and info.namespaced):
            continue
        if term.path not in allowed:
            raise errors.bad_request(f"field label not supported: {term.path}")


@dataclass(frozen=True, slots=True)
class Filter:
    """Both selectors; None of them set matches without decoding."""

    labels: LabelSelector | None
    fields: FieldSelector | None

    @property
    def empty(self) -> bool:
        return (self.labels is None or self.labels.empty) and (self.fields is None or self.fields.empty)

    def matches(self, stored: Stored) -> bool:
        labels = self.labels
        if labels is not None and not labels.empty and not labels.matches(stored.obj["metadata"].get("labels")):
            return False
        return self.fields is None or self.fields.empty or self.fields.matches(stored.obj)


_LATEST = -1  # in a token that goes on with what there is now
_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


def encode_continue(revision: int, start: bytes) -> str:
    """Kubernetes' continue token (v1): the list's revision, _LATEST for none, and the first key of the next page."""
    payload = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start.decode()})
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def decode_continue(token: str) -> tuple[int, bytes]:
    """Revision (negative: whatever is the latest), and the first key of the next page. Raises ApiError 400."""
    try:
        data = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(data["rv"]), str(data["start"]).encode()
    except (binascii.Error, ValueError, KeyError, TypeError) as e:
        raise errors.bad_request("continue key is not valid: it was not made by this API") from e


class Reader:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def get(self, info: ResourceInfo, namespace: str, name: str, *, deadline: float | None = None) -> Stored:
        stored = await self._core.read(keys.object_key(info, namespace, name), deadline=deadline)
        if stored is None:
            raise errors.not_found(info, name)
        return stored

    async def list(
        self,
        info: ResourceInfo,
        namespace: str,
        where: Filter,
        limit: int,
        continue_token: str,
        resource_version: str,
        match: str,
        *,
        deadline: float | None = None,
    ) -> StoredList:
        prefix = keys.namespace_prefix(info, namespace)
        name = where.fields.required("metadata.name") if where.fields is not None else None
        if name and (namespace or not info.namespaced) and not continue_token:
            return await self._list_one(info, namespace, name, where, deadline)
        revision, start = self._start(prefix, continue_token, resource_version, match)
        any_revision = resource_version == "0" and match != "Exact"
        out = StoredList([], 0)
        end = prefix_end(prefix)
        while True:
            want = limit - len(out.items) if limit and where.empty else _PAGE if limit else 0
            page = await self._page(start, end, want, revision, any_revision, bool(continue_token), deadline)
            out.revision = out.revision or revision or page.revision
            for kv in page.kvs:
                stored = self._core.codec.decode(kv.key, kv.value, kv.mod_revision)
                start = kv.key + b"\0"
                if where.matches(stored):
                    out.items.append(stored)
                    if limit and len(out.items) == limit:
                        break
            more = page.more or (bool(page.kvs) and start <= page.kvs[-1].key)
            if not more:
                return out
            if limit and len(out.items) == limit:
                out.continue_token = encode_continue(out.revision, start)
                out.remaining = page.count - len(page.kvs) if where.empty else 0
                return out
            revision = out.revision

    async def _page(
        self,
        start: bytes,
        end: bytes,
        limit: int,
        revision: int,
        any_revision: bool,
        continued: bool,
        deadline: float | None,
    ) -> RangeResult:
        options = {"limit": limit, "revision": revision, "serializable": any_revision, "deadline": deadline}
        try:
            return await self._core.range(start, end, **options)
        except errors.ApiError as e:
            if e.code == 410 and continued:
                raise errors.expired(_TOO_OLD, encode_continue(_LATEST, start)) from e
            if e.code == 410:
                raise errors.expired(f"The resourceVersion for the provided list is too old: {revision}") from e
            raise

    async def _list_one(
        self, info: ResourceInfo, namespace: str, name: str, where: Filter, deadline: float | None
    ) -> StoredList:
        result = await self._core.range(keys.object_key(info, namespace, name), deadline=deadline)
        found = [self._core.codec.decode(kv.key, kv.value, kv.mod_revision) for kv in result.kvs]
        return StoredList([s for s in found if where.matches(s)], result.revision)

    @staticmethod
    def _start(prefix: bytes, continue_token: str, resource_version: str, match: str) -> tuple[int, bytes]:
        if continue_token:
            if resource_version not in ("", "0"):
                raise errors.bad_request("specifying resource version is not allowed when using continue")
            revision, start = decode_continue(continue_token)
            if not start.startswith(prefix):
                raise errors.bad_request("continue key is not valid: it is for another resource")
            return max(revision, 0), start
        if match == "Exact":
            return parse_resource_version(resource_version), prefix
        return 0, prefix

    async def watch(
        self, info: ResourceInfo, namespace: str, revision: int, where: Filter
    ) -> AsyncGenerator[WatchEvent, None]:
        """Events after `revision`; 0 starts with the present state as ADDED events."""
        if revision <= 0:
            present = await self.list(info, namespace, where, 0, "", "", "")
            for stored in present.items:
                yield WatchEvent("ADDED", stored)
            revision = present.revision
        prefix = keys.namespace_prefix(info, namespace)
        before = PREVIOUS_OF_DELETES if where.empty else EVERY_PREVIOUS
        stream = self._core.store.watch(prefix, prefix_end(prefix), start_revision=revision + 1, prev_kv=before)
        try:
            async for batch in stream:
                for event in batch.events:
                    out = self._event(event, where)
                    if out is not None:
                        yield out
                if not batch.events:
                    yield self._bookmark(info, batch.revision)
        except Exception as e:
            if str(getattr(e, "code", "")) == "compacted":
                raise errors.expired(f"too old resource version: {revision}") from e
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e
        finally:
            close = getattr(stream, "aclose", None)  # a consumer that stops must not leave the store watching
            if close is not None:
                await close()

    def _event(self, event: Event, where: Filter) -> WatchEvent | None:
        decode, kv, prev = self._core.codec.decode, event.kv, event.prev_kv
        if event.type == 1:
            if prev is None:
                return None
            gone = decode(kv.key, prev.value, kv.mod_revision)
            return WatchEvent("DELETED", gone) if where.matches(gone) else None
        new = decode(kv.key, kv.value, kv.mod_revision)
        if where.empty:
            return WatchEvent("ADDED" if kv.create_revision == kv.mod_revision else "MODIFIED", new)
        now = where.matches(new)
        before = prev is not None and where.matches(decode(kv.key, prev.value, prev.mod_revision))
        if now:
            return WatchEvent("MODIFIED" if before else "ADDED", new)
        if before and prev is not None:
            return WatchEvent("DELETED", decode(kv.key, prev.value, kv.mod_revision))
        return None

    @staticmethod
    def _bookmark(info: ResourceInfo, revision: int) -> WatchEvent:
        obj = {"kind": info.kind, "apiVersion": info.api_version, "metadata": {"resourceVersion": str(revision)}}
        return WatchEvent("BOOKMARK", Stored(b"", orjson.dumps(obj), revision, "", obj))


def parse_resource_version(text: str) -> int:
    """Raises 400."""
    if not (text.isascii() and text.isdigit()):
        raise _unparsed(text, "invalid syntax")
    if len(text) > _MAX_DIGITS or int(text) >= 2**64:
        raise _unparsed(text, "value out of range")
    return int(text)


def _unparsed(text: str, why: str) -> errors.ApiError:
    return errors.bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": {why}')
