"""Carrying out probes and lifecycle hooks: exec in the container, HTTP, TCP and gRPC to the pod.

IO: the engine, and sockets from the machine's network namespace to the pod's address. Source: Kubernetes' API reference
(ExecAction, HTTPGetAction, TCPSocketAction, SleepAction) and the wording of its prober. A redirect is followed as long
as it stays on its host, so that what it leads to decides; one to another host is a success with a warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from cluster.api.bodies import read_at_most
from cluster.node.core_probe import ProbeAnswer
from cluster.node.grpc_probe import grpc_health
from cluster.node.runtime import Runtime, RuntimeFailure

Obj = dict[str, Any]
_MAX_BODY = 10 * 1024
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_USER_AGENT = "kube-probe/1.34"


class HookFailure(Exception):
    """A lifecycle hook did not succeed."""


class Prober:
    """`close()` it on the loop it is used on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def probe(self, handler: Obj, container: Obj, container_id: str, ip: str, timeout_s: float) -> ProbeAnswer:
        """Never raises for a probe that fails in whatever way."""
        try:
            if "exec" in handler:
                return ProbeAnswer(*await self._exec(handler["exec"], container_id, timeout_s))
            if "httpGet" in handler:
                return await self._http_get(handler["httpGet"], container, ip, timeout_s)
            if "grpc" in handler:
                return ProbeAnswer(*await grpc_health(handler["grpc"], ip, timeout_s))
            if "tcpSocket" in handler:
                return ProbeAnswer(*await self._tcp(handler["tcpSocket"], container, ip, timeout_s))
        except (RuntimeFailure, ValueError) as err:
            return ProbeAnswer(False, str(err))
        return ProbeAnswer(False, "the probe has no handler that this kubelet knows")

    async def hook(self, handler: Obj, container: Obj, container_id: str, ip: str, timeout_s: float) -> None:
        """Run a postStart or preStop handler. Raises HookFailure, also when it takes too long."""
        if "sleep" in handler:
            await asyncio.sleep(min(float(handler["sleep"].get("seconds") or 0), timeout_s))
            return
        said = await self.probe(handler, container, container_id, ip, timeout_s)
        if not said.ok:
            raise HookFailure(said.output)

    async def _exec(self, action: Obj, container_id: str, timeout_s: float) -> tuple[bool, str]:
        command = list(action.get("command") or ())
        try:
            result = await self._runtime.exec_sync(container_id, command, timeout_s)
        except TimeoutError:
            return False, f"command timed out: {json.dumps(' '.join(command))} timed out after {timeout_s:g}s"
        output = result.output.decode("utf-8", "replace").strip()
        return result.exit_code == 0, output or f"exit code {result.exit_code}"

    async def _tcp(self, action: Obj, container: Obj, ip: str, timeout_s: float) -> tuple[bool, str]:
        host, port = action.get("host") or ip, port_number(action.get("port"), container)
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return False, f"dial tcp {host}:{port}: i/o timeout"
        except OSError as err:
            return False, f"dial tcp {host}:{port}: connect: {_os_text(err)}"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True, ""

    async def _http_get(self, action: Obj, container: Obj, ip: str, timeout_s: float) -> ProbeAnswer:
        host, port = action.get("host") or ip, port_number(action.get("port"), container)
        scheme = str(action.get("scheme") or "HTTP").lower()
        path = str(action.get("path") or "/")
        url = f"{scheme}://{host}:{port}{path if path.startswith('/') else '/' + path}"
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Connection": "close"}
        headers.update({h["name"]: str(h.get("value") or "") for h in action.get("httpHeaders") or ()})
        during = ["awaiting headers"]
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, headers, during)
        except TimeoutError:
            why = f"context deadline exceeded (Client.Timeout exceeded while {during[-1]})"
            return ProbeAnswer(False, f'Get "{url}": {why}')
        except (aiohttp.ClientError, OSError, ValueError) as err:
            return ProbeAnswer(False, f'Get "{url}": {_os_text(err)}')

    async def _follow(self, start: str, headers: dict[str, str], during: list[str]) -> ProbeAnswer:
        """The answer at the end of the redirects that stay on their host; `during` notes what is waited for."""
        url, host, http = start, urlsplit(start).hostname, self._session()
        for _ in range(_MAX_REDIRECTS):
            during.append("awaiting headers")
            async with http.get(url, headers=headers, allow_redirects=False) as response:
                during.append("reading body")
                body, _ = await read_at_most(response.content.iter_any(), _MAX_BODY)
            text = body.decode("utf-8", "replace")
            location = response.headers.get("Location") if response.status in _REDIRECTS else None
            url = urljoin(url, location or "")
            if location is None or urlsplit(url).hostname != host:
                return _judged(response.status, text)
        return ProbeAnswer(False, f'Get "{url}": stopped after {_MAX_REDIRECTS} redirects')

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=False, force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._http


def _judged(status: int, body: str) -> ProbeAnswer:
    if 300 <= status < 400:
        return ProbeAnswer(True, f"Probe terminated redirects, Response body: {body}", warning=True)
    if 200 <= status < 300:
        return ProbeAnswer(True, body)
    return ProbeAnswer(False, f"HTTP probe failed with statuscode: {status}")


def port_number(port: Any, container: Obj) -> int:
    """A number, or the name of one of the container's ports. Raises ValueError."""
    if isinstance(port, int) or (isinstance(port, str) and port.isdigit()):
        return int(port)
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ValueError(f"couldn't find port: {port!r} of container {container.get('name')}")


def _os_text(err: Exception) -> str:
    if isinstance(err, aiohttp.ClientConnectorError):
        return f"dial tcp {err.host}:{err.port}: connect: {_os_text(err.os_error)}"
    if isinstance(err, OSError) and err.strerror:
        text = err.strerror
        return text.rpartition("] ")[2].lower() if "Connect call failed" not in text else "connection refused"
    return str(err) or type(err).__name__
