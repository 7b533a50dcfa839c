"""The API as the CLI asks it: is it ready, which nodes are. IO (HTTPS with the admin's certificate)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from cluster.api.meta import is_true, parse_time
from cluster.cli.kubeconfig import Access
from cluster.machine.config import ClusterConfig


class ApiUnavailable(RuntimeError):
    """It does not answer, or not with what was asked."""


class AdminApi:
    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._server = f"https://127.0.0.1:{config.api_port}"

    def access(self) -> Access:
        """Raises FileNotFoundError when there is no cluster."""
        pki = self._config.pki
        return Access(self._server, *((pki / name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key")))

    async def ready(self) -> bool:
        try:
            async with self._session() as session, session.get("/readyz") as response:
                return response.status == 200
        except (OSError, aiohttp.ClientError, TimeoutError):
            return False

    async def get(self, path: str) -> dict[str, Any]:
        """Raises ApiUnavailable."""
        document: dict[str, Any] = json.loads(await self.text(path))
        return document

    async def text(self, path: str) -> str:
        """Raises ApiUnavailable."""
        try:
            async with self._session() as session, session.get(path) as response:
                body = await response.text()
                if response.status != 200:
                    raise ApiUnavailable(f"{path}: {response.status} {body[:200]}")
                return body
        except (OSError, aiohttp.ClientError, TimeoutError) as e:
            raise ApiUnavailable(f"{path}: {e}") from e

    async def create(self, path: str, obj: dict[str, Any]) -> bool:
        """Whether it was made; False when there is one already. Raises ApiUnavailable."""
        try:
            async with self._session() as session, session.post(path, json=obj) as response:
                if response.status == 409:
                    return False
                if response.status != 201:
                    raise ApiUnavailable(f"{path}: {response.status} {(await response.text())[:200]}")
                return True
        except (OSError, aiohttp.ClientError, TimeoutError) as e:
            raise ApiUnavailable(f"{path}: {e}") from e

    async def merge(self, path: str, patch: dict[str, Any]) -> None:
        """A JSON merge patch (RFC 7386). Raises ApiUnavailable."""
        kind = {"Content-Type": "application/merge-patch+json"}
        try:
            async with (
                self._session() as session,
                session.patch(path, data=json.dumps(patch), headers=kind) as response,
            ):
                if response.status != 200:
                    raise ApiUnavailable(f"{path}: {response.status} {(await response.text())[:200]}")
        except (OSError, aiohttp.ClientError, TimeoutError) as e:
            raise ApiUnavailable(f"{path}: {e}") from e

    async def delete(self, path: str) -> None:
        """What is gone already is fine. Raises ApiUnavailable."""
        try:
            async with self._session() as session, session.delete(path) as response:
                if response.status not in (200, 202, 404):
                    raise ApiUnavailable(f"{path}: {response.status} {(await response.text())[:200]}")
        except (OSError, aiohttp.ClientError, TimeoutError) as e:
            raise ApiUnavailable(f"{path}: {e}") from e

    async def nodes(self) -> dict[str, bool]:
        """Ready by node name."""
        items = (await self.get("/api/v1/nodes")).get("items", [])
        return {item["metadata"]["name"]: is_true(item, "Ready") for item in items}

    async def renewals(self) -> dict[str, float]:
        """When each node's kubelet renewed its lease, in seconds since the epoch. Raises ApiUnavailable."""
        items = (await self.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")).get("items", [])
        times = {i["metadata"]["name"]: i.get("spec", {}).get("renewTime") for i in items}
        return {name: parse_time(time) for name, time in times.items() if time}

    async def leaders(self) -> dict[str, str]:
        """Holder by leased component, from the Lease objects of kube-system where there are any."""
        try:
            items = (await self.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases")).get("items", [])
        except ApiUnavailable:
            return {}
        return {i["metadata"]["name"]: str(i.get("spec", {}).get("holderIdentity", "")) for i in items}

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        context = await asyncio.to_thread(self.context)
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(self._server, connector=connector, timeout=timeout) as session:
            yield session

    def context(self) -> ssl.SSLContext:
        """The administrator's, for a part of the cluster. Reads key files."""
        pki = self._config.pki
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
        return context
