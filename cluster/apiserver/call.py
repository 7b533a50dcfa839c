"""One request on its way through the server, and the reply that handlers make. Pure but for reading the body.

Handlers take a Call and return a Reply (or stream by themselves and return what they streamed); the server turns a
Reply into bytes, so that negotiation, compression and headers are in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy

from cluster.api import errors, schema, typecheck
from cluster.api.bodies import read_at_most
from cluster.api.scheme import ResourceInfo, subresource_kind
from cluster.apiserver import negotiate, options, protobuf
from cluster.apiserver.longwork import aside
from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry import duplicates, json_input, yaml_input
from cluster.registry.context import RequestContext, UserInfo

T = TypeVar("T")
_SHOWN_BYTES = 30
_INLINE_BYTES = 16 * 1024
_INLINE_JSON_BYTES = 128 * 1024
_YAML_TYPES = (negotiate.YAML, "application/x-yaml", "text/yaml")
_READ = (negotiate.JSON, negotiate.YAML, protobuf.CONTENT_TYPE)


@dataclass(slots=True)
class Reply:
    """`raw` is JSON already, `obj` still to be encoded; a `content_type` of one's own is sent as it is."""

    code: int = 200
    raw: bytes = b""
    obj: Any = None
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> bytes:
        return orjson.dumps(self.obj) if self.obj is not None else self.raw


def text_reply(text: str, code: int = 200) -> Reply:
    headers = {"X-Content-Type-Options": "nosniff"}
    return Reply(code, raw=text.encode(), content_type="text/plain; charset=utf-8", headers=headers)


@dataclass(slots=True)
class Call:
    """What is known of a request when its handler starts; `resource` is None for non-resource paths, `deadline` (on the
    event loop's clock) for long-running requests. `answer_headers` go with whatever is answered;
    `repeated` is what the body said twice."""

    request: web.BaseRequest
    info: RequestInfo
    params: Mapping[str, str]
    user: UserInfo
    accept: negotiate.Accept
    audit_id: str
    deadline: float | None
    max_body_bytes: int
    body_timeout_s: float
    resource: ResourceInfo | None = None
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    received: bytes = b""
    repeated: tuple[str, ...] = ()
    answer_headers: dict[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self.request.headers

    @property
    def kind(self) -> ResourceInfo:
        """The resource; raises ApiError 404 where there is none."""
        if self.resource is None:
            raise errors.path_not_found()
        return self.resource

    @property
    def namespace(self) -> str:
        """The namespace for the registry: "" for cluster-scoped kinds, whatever the path had."""
        return self.info.namespace if self.resource is not None and self.resource.namespaced else ""

    @property
    def said(self) -> list[str]:
        """The warnings of the answer. `warnings` are of the last attempt: the registry clears them before the next one,
        but what is deprecated stays so."""
        deprecated = self.resource.deprecated if self.resource is not None else ""
        return [deprecated, *self.warnings] if deprecated else self.warnings

    def context(self, *, dry_run: bool | None = None, default_manager: bool = True) -> RequestContext:
        """For the registry. Raises ApiError 422 for parameters it cannot honour."""
        dry, validation, manager = options.write_options(self.params, self.info.verb)
        if not manager and default_manager:
            manager = self.headers.get("User-Agent", "").partition("/")[0][:128]
        return RequestContext(
            user=self.user,
            audit_id=self.audit_id,
            deadline=self.deadline,
            cause_id=self.audit_id,
            dry_run=dry or bool(dry_run),
            field_manager=manager,
            field_validation=validation,
            repeated=self.repeated,
            body_bytes=len(self.received),
            warnings=self.warnings,
            annotations=self.annotations,
        )

    async def body(self) -> bytes:
        """The whole body. Raises ApiError 413 over the limit, 408 when the client does not send it in time."""
        limit = self.max_body_bytes
        if (self.request.content_length or 0) > limit:
            raise errors.too_large(f"limit is {limit}")
        if self.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0  # no part of the answer
        try:
            content = self.request.content
            if content.is_eof():  # it came with the head: nothing to wait for
                body = content.read_nowait()
                longer = len(body) > limit
            else:
                async with asyncio.timeout(self.body_timeout_s):
                    body, longer = await read_at_most(content.iter_any(), limit)
        except TimeoutError:
            raise errors.ApiError(408, "Timeout", "the request's body did not arrive in time") from None
        except (web.HTTPException, ValueError, OSError) as e:
            raise errors.bad_request(f"the request's body cannot be read: {e}") from e
        if longer:
            raise errors.too_large(f"limit is {limit}")
        self.received = body
        return body

    async def object(self, *, optional: bool = False) -> dict[str, Any]:
        """The body as one object. Raises ApiError 400, 413, 415; an empty body is {} when optional."""
        raw = await self.body()
        if optional and not raw.strip():
            return {}
        kind = negotiate.content_type(self.headers.get("Content-Type", ""))
        obj = await read_object(raw, kind, subresource_kind(self.kind, self.info.subresource)[2])
        if (self.params.get("fieldValidation") or "Warn") != "Ignore" and kind in ("", negotiate.JSON):
            again = await read(raw, _INLINE_JSON_BYTES, duplicates.duplicate_fields, obj)
            self.repeated = tuple(f'duplicate field "{path}"' for path in again)
        return obj

    async def review(self, *, optional: bool = False) -> dict[str, Any]:
        """The body of what is answered here and stored nowhere, judged by its types as what is stored is when it is
        written. Raises ApiError 400, 413, 415."""
        return self.typed(await self.object(optional=optional))

    def typed(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` as the types of the kind have it that this resource or subresource speaks. Raises ApiError 400."""
        group, version, kind = subresource_kind(self.kind, self.info.subresource)
        validation = options.write_options(self.params, self.info.verb)[1]
        node = schema.node_for(group, version, kind)
        clean, warnings = typecheck.decode(node, body, version, kind, validation, self.repeated)
        self.repeated = ()  # judged
        self.warnings.extend(warnings)
        return clean


async def read(raw: bytes, inline_bytes: int, parse: Callable[..., T], *more: Any) -> T:
    """`parse(raw, *more)`, aside when it is longer, for a megabyte may take seconds and others are to be served
    meanwhile."""
    if len(raw) <= inline_bytes:
        return parse(raw, *more)
    return await aside(parse, raw, *more)


async def read_patch(raw: bytes, parse: Callable[..., T], media_type: str) -> T:
    """An apply patch, which may be YAML."""
    return await read(raw, _INLINE_BYTES, parse, media_type)


async def read_object(raw: bytes, content_type: str, expected: str) -> dict[str, Any]:
    """`decode_object`, which must not hold up others."""
    inline = _INLINE_JSON_BYTES if content_type in ("", negotiate.JSON) else _INLINE_BYTES
    return await read(raw, inline, decode_object, content_type, expected)


def decode_object(raw: bytes, content_type: str, expected: str) -> dict[str, Any]:
    """`expected`: the kind it should be. Raises ApiError 400 for what is no object, 415 for media types that are not
    read."""
    load: Callable[[bytes], Any]
    if content_type in ("", negotiate.JSON):
        load, fault = json_input.load, "couldn't get version/kind; json parse error"
    elif content_type in _YAML_TYPES:
        load, fault = yaml_input.load, "yaml"
    elif content_type == protobuf.CONTENT_TYPE:
        load, fault = protobuf.decode_object, "protobuf"
    else:
        raise errors.unsupported_media_type(_READ)
    try:
        obj = load(raw)
    except (json_input.BadJson, yaml_input.BadYaml, protobuf.BadProtobuf) as e:
        raise _unrecognized(expected, f"{fault}: {e}", raw) from e
    if not isinstance(obj, dict):
        raise _unrecognized(expected, f"a JSON object is expected, not {type(obj).__name__}", raw)
    return obj


def _unrecognized(expected: str, why: str, raw: bytes) -> errors.ApiError:
    """With how the body begins, as text if that looks like an object."""
    begins = raw[:_SHOWN_BYTES].decode(errors="replace") if raw.startswith(b"{") else raw[:_SHOWN_BYTES].hex()
    more = " ..." if len(raw) > _SHOWN_BYTES else ""
    return errors.bad_request(
        f"the object provided is unrecognized (must be of type {expected}): {why} ({begins or '<empty>'}{more})"
    )
