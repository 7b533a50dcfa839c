"""The Client over HTTPS: aiohttp, a client certificate or a bearer token, watches as JSON lines of any length.

IO. Speaks to `server` (by default the forwarder on this machine, 127.0.0.1:6443, which picks a healthy API server and
moves on when it fails), so a broken connection is normal: reads are repeated, writes are not (the caller's reconcile
is). Every failure is an `ApiError`: the server's Status, or ServiceUnavailable when no answer came.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo, creatable
from cluster.api.tracing import Tracer
from cluster.machinery.client import (
    PATCH_MEDIA_TYPES,
    Binding,
    BindOutcomes,
    Created,
    Obj,
    ObjectList,
    PatchKind,
    Turn,
    WatchEvent,
)

_READ_TRIES = 5
_PAGE = 500
_AT_ONCE = 16
_MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """`token_file` is read anew for each connection's requests when set (projected tokens rotate).

    `watch_idle_timeout_s`: a watch without even a bookmark for this long is taken for dead and opened again.
    """

    server: str = "https://127.0.0.1:6443"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token: str = ""
    token_file: str = ""
    user_agent: str = "sk8"
    field_manager: str = ""
    request_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    watch_idle_timeout_s: float = 90.0

    def validate(self) -> None:
        if not self.server.startswith(("https://", "http://")):
            raise ValueError(f"server: {self.server!r} must start with https:// or http://")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: give both or neither")
        for name in ("request_timeout_s", "connect_timeout_s", "watch_idle_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be greater than 0")


class HttpClient:
    """Belongs to the loop it is first used on; `close()` it there (or use it as an async context manager)."""

    def __init__(self, config: HttpConfig, tracer: Tracer | None = None) -> None:
        config.validate()
        self._tracer = tracer
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- Client

    async def get(self, resource: str, name: str, namespace: str = "") -> Obj:
        return await self._read(object_path(SCHEME.named(resource), namespace, name), {})

    async def list(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        chunk_size: int = _PAGE,
    ) -> ObjectList:
        """`chunk_size`: so many objects with each request; 0 for all at once."""
        info = SCHEME.named(resource)
        params = _selectors(label_selector, field_selector) | {"limit": str(chunk_size)}
        items: list[Obj] = []
        while True:
            page = await self._read(object_path(info, namespace), params)
            meta = page.get("metadata", {})
            for obj in page.get("items") or []:
                obj.setdefault("apiVersion", info.api_version)
                obj.setdefault("kind", info.kind)
                items.append(obj)
            token = meta.get("continue")
            if not token:
                return ObjectList(items, meta.get("resourceVersion", ""))
            params = params | {"continue": token}

    async def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        info = SCHEME.named(resource)
        params = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
        }
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._config.connect_timeout_s, sock_read=self._config.watch_idle_timeout_s
        )
        try:
            async with self._open().get(
                self._config.server + object_path(info, namespace),
                params=params,
                headers=self._headers(),
                timeout=timeout,
            ) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                async for line in _lines(response.content.iter_any()):
                    yield WatchEvent.from_wire(orjson.loads(line))
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise errors.service_unavailable(f"watch {resource}: {_why(err)}") from err
        except orjson.JSONDecodeError as err:
            raise errors.internal(f"watch {resource}: not JSON: {err}") from err

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj:
        info = creatable(resource)
        namespace = namespace or obj.get("metadata", {}).get("namespace", "")
        if subresource:
            name = name or obj["metadata"]["name"]
            return await self._write("POST", object_path(info, namespace, name, subresource), obj)
        return await self._write("POST", object_path(info, namespace), obj)

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        meta = obj["metadata"]
        path = object_path(SCHEME.named(resource), meta.get("namespace", ""), meta["name"], subresource)
        return await self._write("PUT", path, obj)

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        """A request each, some at a time: HTTP has no other way."""
        outcomes: Created = []
        for start in range(0, len(objects), _AT_ONCE):
            some = objects[start : start + _AT_ONCE]
            outcomes += await asyncio.gather(*(self._try_create(resource, obj) for obj in some))
        return outcomes

    async def _try_create(self, resource: str, obj: Obj) -> Obj | ApiError:
        try:
            return await self.create(resource, obj)
        except ApiError as err:
            return err

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
    ) -> Obj:
        path = object_path(SCHEME.named(resource), namespace, name, subresource)
        params = {"force": "true"} if kind == "apply" else {}
        return await self._write("PATCH", path, patch, media_type=PATCH_MEDIA_TYPES[kind], params=params)

    async def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> None:
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if propagation:
            options["propagationPolicy"] = propagation
        await self._write("DELETE", object_path(SCHEME.named(resource), namespace, name), options)

    async def take_turn(self, holder: str) -> Turn:
        raise errors.method_not_supported("pods/binding", "take a turn at")  # HTTP knows no turns

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        if turn:
            raise errors.method_not_supported("pods/binding", "create within a turn")
        if together and len(bindings) > 1:
            raise errors.method_not_supported("pods/binding", "create together")  # HTTP binds one pod at a time
        return list(await asyncio.gather(*(self._bind(binding) for binding in bindings)))

    async def _bind(self, binding: Binding) -> ApiError | None:
        meta = {"name": binding.name, "namespace": binding.namespace} | ({"uid": binding.uid} if binding.uid else {})
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": meta,
            "target": {"apiVersion": "v1", "kind": "Node", "name": binding.node},
        }
        try:
            await self.create("pods", body, binding.namespace, subresource="binding", name=binding.name)
        except ApiError as err:
            return err
        return None

    # ---- requests

    async def request(
        self, method: str, path: str, *, params: dict[str, str] | None = None, body: Any = None, media_type: str = ""
    ) -> Obj:
        """One request to any path (what the Protocol does not cover); tried once."""
        data = None if body is None else orjson.dumps(body)
        headers = self._headers()
        if data is not None:
            headers["Content-Type"] = media_type or "application/json"
        timeout = aiohttp.ClientTimeout(
            total=self._config.request_timeout_s, sock_connect=self._config.connect_timeout_s
        )
        try:
            async with self._open().request(
                method, self._config.server + path, params=params or {}, data=data, headers=headers, timeout=timeout
            ) as response:
                payload = await response.read()
                if response.status >= 300:
                    raise _error(response.status, payload)
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise errors.service_unavailable(f"{method} {path}: {_why(err)}") from err
        try:
            decoded: Obj = orjson.loads(payload) if payload else {}
        except orjson.JSONDecodeError as err:
            raise errors.internal(f"{method} {path}: not JSON: {err}") from err
        return decoded

    async def _read(self, path: str, params: dict[str, str]) -> Obj:
        for attempt in range(_READ_TRIES):
            try:
                return await self.request("GET", path, params=params)
            except ApiError as err:
                if err.code != 503 or attempt == _READ_TRIES - 1:
                    raise
            await asyncio.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable: the last try returned or raised")

    async def _write(
        self, method: str, path: str, body: Any, *, media_type: str = "", params: dict[str, str] | None = None
    ) -> Obj:
        params = dict(params or {})
        if self._config.field_manager and method != "DELETE":
            params["fieldManager"] = self._config.field_manager
        return await self.request(method, path, params=params, body=body, media_type=media_type)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._config.user_agent}
        token = self._config.token
        if self._config.token_file:
            with open(self._config.token_file, encoding="utf-8") as f:
                token = f.read().strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if self._tracer is not None and (parent := self._tracer.traceparent()):
            headers["traceparent"] = parent
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=_ssl(self._config), limit=0, keepalive_timeout=60),
                read_bufsize=1 << 18,
            )
        return self._session


def object_path(info: ResourceInfo, namespace: str = "", name: str = "", subresource: str = "") -> str:
    parts = ["", "apis", info.group, info.version] if info.group else ["", "api", info.version]
    if info.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts.append(info.plural)
    if name:
        parts.append(name)
    if subresource:
        parts.append(subresource)
    return "/".join(parts)


def _ssl(config: HttpConfig) -> ssl.SSLContext | bool:
    if not config.server.startswith("https://"):
        return True
    context = ssl.create_default_context(cafile=config.ca_file or None)
    if config.cert_file:
        context.load_cert_chain(config.cert_file, config.key_file)
    return context


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    params = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {k: v for k, v in params.items() if v}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Non-empty lines, however the chunks cut them; linear in the length of a line."""
    pending: list[bytes] = []
    size = 0
    async for chunk in chunks:
        head, newline, rest = chunk.partition(b"\n")
        pending.append(head)
        size += len(head)
        if size > _MAX_LINE_BYTES:
            raise errors.internal(f"watch: a line longer than {_MAX_LINE_BYTES} bytes")
        if not newline:
            continue
        complete = [b"".join(pending), *rest.split(b"\n")]
        last = complete.pop()
        for line in complete:
            if line:
                yield line
        pending, size = [last], len(last)


def _error(code: int, payload: bytes) -> ApiError:
    """The ApiError of a response: its Status body, or one made from the code and the text."""
    try:
        status = orjson.loads(payload)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return ApiError.from_status(status)
    except orjson.JSONDecodeError:
        pass
    text = payload[:200].decode("utf-8", "replace").strip()
    make: dict[int, Callable[[], ApiError]] = {
        401: errors.unauthorized,
        503: lambda: errors.service_unavailable(text or "the API server is not ready"),
        504: lambda: errors.timeout(text or "the API server did not answer in time"),
    }
    if code in make:
        return make[code]()
    return ApiError.from_status(
        {"kind": "Status", "status": "Failure", "code": code, "reason": "", "message": text or f"HTTP {code}"}
    )


def _why(err: BaseException) -> str:
    return str(err) or type(err).__name__
