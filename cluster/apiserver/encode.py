"""From a handler's Reply to the HTTP response: JSON or YAML, pretty, compressed, with warnings.

Compression in a thread.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping
from types import MappingProxyType

import orjson
import yaml
from aiohttp import web
from multidict import CIMultiDict

from cluster.api.errors import ApiError
from cluster.apiserver import metrics, negotiate
from cluster.apiserver.call import Reply
from cluster.apiserver.requestinfo import flag
from cluster.apiserver.whole import WholeResponse

_NO_CACHE = "no-cache, private"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Characters of all warnings of one answer, and of each when that is too many (k8s.io/apiserver pkg/endpoints/filters).
_FOR_EYES = ("curl", "Wget", "Mozilla/5.0")
_MAX_WARNINGS, _SHORT_WARNING = 4096, 256
_SLICE_BYTES = 256 * 1024


async def response_of(
    reply: Reply,
    request: web.BaseRequest,
    *,
    accept: negotiate.Accept,
    audit_id: str,
    pretty: bool = False,
    warnings: list[str] | None = None,
    more_headers: Mapping[str, str] = MappingProxyType({}),
    gzip_min_bytes: int = 128 * 1024,
) -> web.StreamResponse:
    headers: CIMultiDict[str] = CIMultiDict({"Audit-Id": audit_id, "Cache-Control": _NO_CACHE})
    headers.update(more_headers)
    headers.update(reply.headers)
    if reply.content_type:
        body = reply.raw
        headers["Content-Type"] = reply.content_type
    else:
        body = reply.json()
        if accept.media == negotiate.YAML:
            body = yaml.dump(orjson.loads(body), Dumper=yaml.CSafeDumper, allow_unicode=True).encode()
        elif pretty:
            body = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        headers["Content-Type"] = accept.content_type if reply.code < 400 else accept.media
    for warning in _shortened(warnings or []):
        headers.add("Warning", f'299 - "{_quoted(warning)}"')
    if len(body) >= gzip_min_bytes and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers["Content-Encoding"] = "gzip"
        headers.add("Vary", "Accept-Encoding")
    metrics.RESPONSE_BYTES.inc(len(body))
    if len(body) > _SLICE_BYTES and request.method != "HEAD":
        return await _in_slices(request, web.StreamResponse(status=reply.code, headers=headers), body)
    if WholeResponse.fits(request, reply.code):
        return WholeResponse(reply.code, headers.items(), body)
    return web.Response(body=body, status=reply.code, headers=headers)


async def _in_slices(request: web.BaseRequest, response: web.StreamResponse, body: bytes) -> web.StreamResponse:
    """A large body, encrypted and sent piece by piece: its client reads the first while the next is made, copies stay
    in the processor's cache, and others are served in between."""
    response.content_length = len(body)
    await response.prepare(request)
    with memoryview(body) as view:
        for at in range(0, len(body), _SLICE_BYTES):
            await response.write(view[at : at + _SLICE_BYTES])
    return response


def _shortened(warnings: list[str]) -> list[str]:
    """Warnings that together fit into a client's limit for headers: when they do not, the beginnings of the first."""
    if sum(map(len, warnings)) <= _MAX_WARNINGS:
        return warnings
    return [w[:_SHORT_WARNING] for w in warnings[: _MAX_WARNINGS // _SHORT_WARNING]]


def _quoted(text: str) -> str:
    """As the quoted string of a header (RFC 9110), which holds no control characters."""
    escaped = _CONTROL.sub(lambda m: " " if m.group() in "\r\n" else f"\\x{ord(m.group()):02x}", text)
    return escaped.replace("\\", "\\\\").replace('"', '\\"')


def error_reply(error: ApiError) -> Reply:
    reply = Reply(error.code, obj=error.status())
    if error.retry_after_s:
        reply.headers["Retry-After"] = str(error.retry_after_s)
    return reply


def wants_pretty(params: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    """Whether a person reads the answer: as the query says, else by the client. A page's script is not a person."""
    if params.get("pretty"):
        return flag(params, "pretty")
    return (
        headers.get("User-Agent", "").startswith(_FOR_EYES) and headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    )
