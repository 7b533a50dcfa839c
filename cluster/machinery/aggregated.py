"""Asking an aggregated API server (one that an APIService names) in process, without the way through our own.

IO: HTTPS GET to the Service's cluster IP, under the client certificate that such servers trust for X-Remote-* headers
(the front proxy's), in the name of the component that asks. Source: k8s.io/kube-aggregator.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import yarl

from cluster.api.bodies import read_at_most
from cluster.api.errors import ApiError, service_unavailable
from cluster.machinery.service_http import MAX_ANSWER_BYTES, LazySession, Resolve
from cluster.registry.context import UserInfo

Obj = dict[str, Any]

_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """PEM files of the client certificate."""

    cert_file: str
    key_file: str


class AggregatedApis:
    """One per process; its connections belong to the loop that first calls it."""

    def __init__(self, resolve: Resolve, proxy: FrontProxy, user: UserInfo) -> None:
        self._resolve = resolve
        self._proxy = proxy
        self._headers = [("X-Remote-User", user.name), *(("X-Remote-Group", g) for g in user.groups)]
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._session = LazySession()

    async def get(self, service: Obj, path: str, query: Mapping[str, str]) -> Obj:
        """The object at `path` of the server behind the APIService `service`. Raises ApiError."""
        where = service["spec"]["service"]
        name, port = f"{where['name']}.{where['namespace']}.svc", where.get("port") or 443
        address = await self._resolve(where["namespace"], where["name"])
        host = f"[{address}]" if ":" in address else address
        headers = [*self._headers, ("Host", f"{name}:{port}"), ("Accept", "application/json")]
        try:
            async with (
                asyncio.timeout(_ASK_S),
                self._session.open().get(
                    yarl.URL(f"https://{host}:{port}{path}").with_query(query),
                    headers=headers,
                    ssl=self._trusting(service["spec"]),
                    server_hostname=name,
                    allow_redirects=False,
                ) as response,
            ):
                raw, longer = await read_at_most(response.content.iter_any(), MAX_ANSWER_BYTES)
                status = response.status
        except TimeoutError:
            raise service_unavailable(f"{name}{path}: no answer within {_ASK_S:g} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError, binascii.Error, ValueError) as e:
            raise service_unavailable(f"{name}{path}: {getattr(e, 'os_error', e)}") from e
        if longer:
            raise service_unavailable(f"{name}{path}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return _object(raw, status, f"{name}{path}")

    def _trusting(self, spec: Obj) -> ssl.SSLContext:
        bundle, insecure = spec.get("caBundle") or "", bool(spec.get("insecureSkipTLSVerify"))
        context = self._contexts.get((bundle, insecure))
        if context is None:
            context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)
            if insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(self._proxy.cert_file, self._proxy.key_file)
            self._contexts[bundle, insecure] = context
        return context

    async def close(self) -> None:
        await self._session.close()


def _object(raw: bytes, status: int, where: str) -> Obj:
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise service_unavailable(f"{where}: the server answered {status}, and no JSON") from e
    if not isinstance(answer, dict):
        raise service_unavailable(f"{where}: the answer is no object")
    if status != 200:
        raise ApiError(status, str(answer.get("reason", "")), str(answer.get("message", f"{where}: {status}")))
    return answer
