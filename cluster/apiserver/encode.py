"""From a handler's Reply to the HTTP response: JSON or YAML, pretty, compressed, with warnings.

Compression in a thread.
"""

from __future__ import annotations

import asyncio
import gzip
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

_NO_CACHE = "no-cache, private"


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
) -> web.Response:
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
    for warning in warnings or ():
        quoted = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
        headers.add("Warning", f'299 - "{quoted}"')
    if len(body) >= gzip_min_bytes and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers["Content-Encoding"] = "gzip"
        headers.add("Vary", "Accept-Encoding")
    metrics.RESPONSE_BYTES.inc(len(body))
    return web.Response(body=body, status=reply.code, headers=headers)


def error_reply(error: ApiError) -> Reply:
    reply = Reply(error.code, obj=error.status())
    if error.retry_after_s:
        reply.headers["Retry-After"] = str(error.retry_after_s)
    return reply


def wants_pretty(params: dict[str, str]) -> bool:
    return "pretty" in params and flag(params, "pretty")
