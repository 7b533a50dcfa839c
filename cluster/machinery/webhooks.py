"""Calling webhooks over HTTPS: conversion and admission alike.

IO: network. A webhook is named by a URL or by a Service, which is reached at its cluster IP under the name
`<name>.<namespace>.svc`; its certificate must be signed by caBundle, or by a CA the system trusts when there is none.
Connections are kept, TLS contexts too. Source: k8s.io/apiserver `pkg/util/webhook`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from functools import lru_cache
from typing import Any

import aiohttp
import orjson
import yarl

from cluster.api import errors
from cluster.api.bodies import read_at_most
from cluster.machinery.service_http import MAX_ANSWER_BYTES, LazySession, Resolve

Object = dict[str, Any]

_CONVERSION_S = 30.0


class WebhookClient:
    """One per process; its connections belong to the loop that first calls it."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._session = LazySession()

    async def convert(self, webhook: Object, review: Object) -> Object:
        """Ask a conversion webhook (`spec.conversion.webhook`). Raises ApiError."""
        return await self.post(webhook.get("clientConfig") or {}, review, _CONVERSION_S)

    async def post(self, client: Object, body: Object, timeout_s: float) -> Object:
        """POST a review to `client` (a WebhookClientConfig); the answer. Raises ApiError 500 saying what failed."""
        shown, url, server_name, host = await self._address(client)
        what = f'Post "{shown}?timeout={timeout_s:g}s"'
        context = _context(client.get("caBundle") or "", what)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Host": host}
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.open().post(
                    url.update_query(timeout=f"{timeout_s:g}s"),
                    data=orjson.dumps(body),
                    headers=headers,
                    ssl=context,
                    server_hostname=server_name,
                    allow_redirects=False,
                ) as response:
                    raw, longer = await read_at_most(response.content.iter_any(), MAX_ANSWER_BYTES)
                    if response.status != 200:
                        text = raw[:256].decode(errors="replace").strip()
                        raise _failed(f"{what}: the server answered {response.status}: {text}")
        except TimeoutError:
            raise _failed(f"{what}: context deadline exceeded") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            raise _failed(f"{what}: {getattr(e, 'os_error', e)}") from e
        if longer:
            raise _failed(f"{what}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError as e:
            raise _failed(f"{what}: the answer is not JSON: {e}") from e
        if not isinstance(answer, dict):
            raise _failed(f"{what}: the answer is no object")
        return answer

    async def _address(self, client: Object) -> tuple[str, yarl.URL, str, str]:
        """The URL to show, the URL to call, the name in the certificate and the Host header."""
        if client.get("url"):
            url = yarl.URL(client["url"])
            return str(url), url, url.host or "", url.authority
        service = client.get("service") or {}
        namespace, name = service.get("namespace", ""), service.get("name", "")
        port, path = service.get("port") or 443, "/" + (service.get("path") or "").lstrip("/")
        host = f"{name}.{namespace}.svc"
        address = await self._resolve(namespace, name)
        where = f"[{address}]" if ":" in address else address
        return f"https://{host}:{port}{path}", yarl.URL(f"https://{where}:{port}{path}"), host, f"{host}:{port}"

    async def close(self) -> None:
        await self._session.close()


@lru_cache(maxsize=256)
def _trusting(bundle: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)


def _context(bundle: str, what: str) -> ssl.SSLContext:
    try:
        return _trusting(bundle)
    except (ssl.SSLError, ValueError, binascii.Error) as e:
        raise _failed(f"{what}: caBundle holds no certificates: {e}") from e


def _failed(why: str) -> errors.ApiError:
    return errors.ApiError(500, "", why)
