"""List and watch from inside a pod, by its service account. IO: http.client in threads.

The DNS image is made of Debian's packages and holds little: so this is the standard library's HTTP and JSON in place of
aiohttp and orjson (`cluster/machinery/http_client.py`), and the two verbs that a reader needs. Failures are `ApiError`,
as of every client.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.machinery.client import ObjectList, WatchEvent

Obj = dict[str, Any]
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PAGE = 500
_TIMEOUT_S = 30.0
_IDLE_S = 90.0
"""A watch without even a bookmark for this long is taken for dead."""


class PodClient:
    """Speaks to the Service `kubernetes`, as the environment and the mounted account say."""

    def __init__(self, host: str, port: int, account: Path = ACCOUNT) -> None:
        self._address = (host, port)
        self._account = account

    @classmethod
    def in_cluster(cls) -> PodClient:
        """Raises KeyError outside a pod."""
        return cls(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]))

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        info = SCHEME.named(resource)
        query = _selectors(label_selector, field_selector) | {"limit": str(_PAGE)}
        items: list[Obj] = []
        while True:
            page = await asyncio.to_thread(self._get, _path(resource, namespace), query)
            items += ({"apiVersion": info.api_version, "kind": info.kind} | obj for obj in page.get("items") or ())
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return ObjectList(items, meta.get("resourceVersion", ""))
            query |= {"continue": meta["continue"]}

    async def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
        }
        reader = _WatchThread(self, _path(resource, namespace), query)
        reader.start()
        try:
            while True:
                event = await reader.events.get()
                if event is None:
                    return
                if isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            reader.stop()

    def _get(self, path: str, query: dict[str, str]) -> Obj:
        with contextlib.closing(self.connect(_TIMEOUT_S)) as connection:
            found: Obj = json.load(self.request(connection, path, query))
            return found

    def connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        return http.client.HTTPSConnection(*self._address, timeout=timeout_s, context=context)

    def request(
        self, connection: http.client.HTTPSConnection, path: str, query: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Raises ApiError. The token is read anew: it is replaced now and then."""
        token = (self._account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "coredns (sk8)"}
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _error(response.status, response.read())
        except (OSError, http.client.HTTPException) as err:
            raise errors.service_unavailable(f"GET {path}: {err}") from err
        return response


class _WatchThread(threading.Thread):
    """Puts events into `events`, and at the end why it ended: an ApiError, or None when the server closed it."""

    def __init__(self, client: PodClient, path: str, query: dict[str, str]) -> None:
        super().__init__(name=f"watch {path}", daemon=True)
        self.events: asyncio.Queue[WatchEvent | ApiError | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._path = path
        self._query = query
        self._connection = client.connect(_IDLE_S)
        self._stopped = False

    def run(self) -> None:
        end: ApiError | None = None
        try:
            with contextlib.closing(self._connection):
                response = self._client.request(self._connection, self._path, self._query)
                while not self._stopped and (line := response.readline()):
                    self._put(WatchEvent.from_wire(json.loads(line)))
        except ApiError as err:
            end = err
        except (OSError, ValueError, http.client.HTTPException) as err:
            end = errors.service_unavailable(f"watch {self._path}: {err}")
        self._put(end)

    def stop(self) -> None:
        """Ends the thread: while it connects there is no socket yet, and it looks at `_stopped` afterwards. One that
        reads is not woken by close(), because the response holds the socket too. Not by the TLS layer's own shutdown
        either: that takes its state from under the reader."""
        self._stopped = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _put(self, item: WatchEvent | ApiError | None) -> None:
        if not self._stopped and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, item)


def _path(resource: str, namespace: str) -> str:
    info = SCHEME.named(resource)
    prefix = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    return f"{prefix}/namespaces/{namespace}/{info.plural}" if namespace else f"{prefix}/{info.plural}"


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    wanted = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in wanted.items() if value}


def _error(code: int, payload: bytes) -> ApiError:
    try:
        status = json.loads(payload)
    except ValueError:
        status = {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = payload[:200].decode(errors="replace") or f"HTTP {code}"
        status = {"kind": "Status", "status": "Failure", "code": code, "message": text}
    return ApiError.from_status(status)
