"""Custom objects between the versions of their definition: as stored, and as a request wants them.

IO only through the injected webhook caller. Strategy None changes apiVersion and nothing else; strategy Webhook asks a
server, many objects at a time. What comes back must be the same objects: their metadata may change in labels and
annotations only. Then the target's schema prunes. Source: k8s.io/apiextensions-apiserver
`pkg/apiserver/conversion`.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cluster.api import errors
from cluster.api.crd import pruning
from cluster.api.crd.versions import CustomVersion
from cluster.registry.types import Stored

Object = dict[str, Any]
# (the webhook's part of spec.conversion, a ConversionReview) -> the ConversionReview that came back
CallWebhook = Callable[[Object, Object], Awaitable[Object]]

_BATCH = 500
# Both have the same fields; the first that the webhook names is sent.
_REVIEWS = ("v1", "v1beta1")
_FREE_METADATA = ("labels", "annotations")


async def no_webhooks(webhook: Object, review: Object) -> Object:
    raise errors.internal("conversion webhook cannot be called: this process has no webhook client")


class Converter:
    def __init__(self, call: CallWebhook = no_webhooks) -> None:
        self.call = call

    async def served(self, custom: CustomVersion, items: Sequence[Stored]) -> list[Stored]:
        """Stored objects as `custom` serves them; those that are so already are passed on as they are."""
        if custom.trivial:
            wanted = f"{custom.group}/{custom.version}"
            if all(_api_version(s) == wanted for s in items):
                return list(items)
        objects = await self.read(custom, [s.fresh() for s in items])
        return [
            Stored.of(s.key, obj, s.revision, s.uid, removed=s.removed) if obj != s.obj else s
            for s, obj in zip(items, objects, strict=True)
        ]

    async def one(self, custom: CustomVersion, stored: Stored) -> Stored:
        return (await self.served(custom, [stored]))[0]

    async def read(self, custom: CustomVersion, objects: list[Object]) -> list[Object]:
        """Stored objects in `custom`'s version: with the defaults of the version each is in, then converted.
        Defaults of `custom` itself are for what clients send in it. Raises ApiError 500."""
        for obj in objects:
            pruning.apply_defaults(custom.schema_of(obj["apiVersion"].rpartition("/")[2]), obj)
        return await self.convert(custom, objects)

    async def convert(self, custom: CustomVersion, objects: list[Object]) -> list[Object]:
        """Fresh objects of any version in `custom`'s, pruned; raises ApiError 500."""
        wanted = f"{custom.group}/{custom.version}"
        foreign = [i for i, obj in enumerate(objects) if obj["apiVersion"] != wanted]
        out = list(objects)
        if foreign and custom.conversion.get("strategy") == "Webhook":
            for start in range(0, len(foreign), _BATCH):
                some = foreign[start : start + _BATCH]
                for i, obj in zip(some, await self._ask(custom, wanted, [objects[i] for i in some]), strict=True):
                    out[i] = obj
        for i in foreign:
            out[i]["apiVersion"] = wanted
            pruning.prune(custom.schema, out[i])
        return out

    async def _ask(self, custom: CustomVersion, wanted: str, objects: list[Object]) -> list[Object]:
        uid = str(uuid.uuid4())
        request = {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}
        spoken = custom.conversion["webhook"].get("conversionReviewVersions") or _REVIEWS
        version = next((v for v in spoken if v in _REVIEWS), _REVIEWS[0])
        review = {"kind": "ConversionReview", "apiVersion": f"apiextensions.k8s.io/{version}", "request": request}
        what = f"conversion webhook for {objects[0]['apiVersion']}, Kind={custom.kind} failed"
        try:
            answer = await self.call(custom.conversion["webhook"], review)
        except errors.ApiError as e:
            raise errors.ApiError(500, "", f"{what}: {e.message}") from e
        response = answer.get("response")
        if not isinstance(response, dict):
            raise errors.ApiError(500, "", f"{what}: the answer has no response")
        if response.get("uid") != uid:
            raise errors.ApiError(500, "", f'{what}: expected response.uid="{uid}"')
        result = response.get("result") or {}
        if result.get("status") != "Success":
            raise errors.ApiError(500, "", f"{what}: {result.get('message') or 'no reason given'}")
        converted = response.get("convertedObjects") or []
        if len(converted) != len(objects):
            raise errors.ApiError(500, "", f"{what}: it returned {len(converted)} objects, expected {len(objects)}")
        return [_checked(what, wanted, old, new) for old, new in zip(objects, converted, strict=True)]


def _checked(what: str, wanted: str, old: Object, new: Any) -> Object:
    """The converted object with the metadata that a webhook must not change."""
    if not isinstance(new, dict) or new.get("apiVersion") != wanted or new.get("kind") != old["kind"]:
        raise errors.ApiError(500, "", f"{what}: it returned an object that is not {wanted}, Kind={old['kind']}")
    before, after = old["metadata"], new.get("metadata") or {}
    for field in ("name", "namespace", "uid"):
        if before.get(field, "") != after.get(field, ""):
            shown = f"{before.get(field, '')!r} to {after.get(field, '')!r}"
            raise errors.ApiError(500, "", f"{what}: it changed metadata.{field} from {shown}")
    kept = {k: v for k, v in before.items() if k not in _FREE_METADATA}
    return {**new, "metadata": {**kept, **{k: after[k] for k in _FREE_METADATA if after.get(k)}}}


def _api_version(stored: Stored) -> str:
    """Of the stored bytes, which begin with kind and apiVersion."""
    head = stored.raw[: stored.raw.index(b'"metadata"')]
    at = head.index(b'"apiVersion":"') + len(b'"apiVersion":"')
    return head[at : head.index(b'"', at)].decode()
