"""The local provider's client: `cluster.machinery.provider.Provider` over the host agent's socket, plus its controls.

IO (HTTP over a unix socket). One short connection per call: the socket is a file that also a machine's processes see,
and a host agent that was restarted is simply there again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cluster.machinery.provider import (
    DiskStatus,
    DiskWish,
    MachineState,
    MachineStatus,
    MadeDisk,
    ProviderError,
)

_MIB = 1 << 20
_STATES: Mapping[str, MachineState] = {"running": "running", "off": "off"}
_OLDER = "the host agent runs an older sk8, which cannot do this: sk8 down --keep-data, then sk8 up"


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """A machine as the host agent sees it."""

    status: MachineStatus
    control_plane: bool
    pid: int


class LocalProvider:
    """Fulfils Provider, Disks and CertificateIssuer. Raises ProviderError: refused (not retriable), or nobody answers
    (retriable)."""

    def __init__(self, socket: str | Path = "/run/sk8/host.sock", *, timeout_s: float = 120.0) -> None:
        self._socket = str(socket)
        self._timeout_s = timeout_s

    # -- Provider ------------------------------------------------------------------------------------------------
    async def machines(self) -> Sequence[MachineStatus]:
        return [m.status for m in await self.local_machines()]

    async def watch_machines(self) -> AsyncIterator[Sequence[MachineStatus]]:
        version = 0
        last: Sequence[MachineStatus] | None = None
        while True:
            found, version = await self._list(version)
            now = [m.status for m in found]
            if now != last:
                yield now
            last = now

    # -- Disks: their handles are their names ----------------------------------------------------------------------
    async def create_disk(self, wish: DiskWish) -> MadeDisk:
        size = -(-wish.size_bytes // _MIB) * _MIB
        await self._call("POST", "/v1/disks", {"name": wish.name, "size_bytes": size})
        return MadeDisk(wish.name, size)

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        size = -(-size_bytes // _MIB) * _MIB
        return int((await self._call("POST", f"/v1/disks/{handle}/grow", {"size_bytes": size}))["size_bytes"])

    async def delete_disk(self, handle: str) -> None:
        await self._call("DELETE", f"/v1/disks/{handle}")

    async def attach_disk(self, handle: str, machine: str) -> str:
        return str((await self._call("POST", f"/v1/disks/{handle}/attach", {"machine": machine}))["device_path"])

    async def detach_disk(self, handle: str, machine: str) -> None:
        await self._call("POST", f"/v1/disks/{handle}/detach", {"machine": machine})

    async def disks(self) -> Sequence[DiskStatus]:
        return [DiskStatus(**row) for row in (await self._call("GET", "/v1/disks"))["disks"]]

    # -- CertificateIssuer ---------------------------------------------------------------------------------------
    async def issue(self, signer: str, request_pem: str, usages: Sequence[str], lifetime_s: float) -> str:
        body = {"signer": signer, "request": request_pem, "usages": list(usages), "lifetime_s": lifetime_s}
        return str((await self._call("POST", "/v1/certificates", body))["certificate"])

    # -- controls of local machines ------------------------------------------------------------------------------
    async def local_machines(self) -> list[LocalMachine]:
        return (await self._list(0))[0]

    async def start(self, machine: str, *, wipe: bool = False) -> None:
        await self._call("POST", f"/v1/machines/{machine}/start", {"wipe": wipe})

    async def kill(self, machine: str) -> None:
        await self._call("POST", f"/v1/machines/{machine}/kill")

    async def stop(self, machine: str) -> None:
        await self._call("POST", f"/v1/machines/{machine}/stop")

    async def wipe(self, machine: str) -> None:
        await self._call("POST", f"/v1/machines/{machine}/wipe")

    async def add_machine(self, name: str = "", *, zone: str = "") -> str:
        """One more worker, which is off; its name."""
        return str((await self._call("POST", "/v1/machines", {"name": name, "zone": zone}))["name"])

    async def remove_machine(self, machine: str) -> None:
        """A worker that is off, and its disk."""
        await self._call("DELETE", f"/v1/machines/{machine}")

    async def configure(self, settings: Mapping[str, Any]) -> None:
        """Settings for every part that starts from now on."""
        await self._call("POST", "/v1/settings", settings)

    async def restart_agent(self, machine: str) -> None:
        """sk8-machine begins anew, with the release that its disk names; the pods run on."""
        await self._call("POST", f"/v1/machines/{machine}/restart")

    async def renew(self, machine: str) -> None:
        """New certificates now, though the old ones may last."""
        await self._call("POST", f"/v1/machines/{machine}/renew")

    async def kill_container(self, machine: str, container_id: str, *, shim: bool) -> str:
        """One that the engine does not end, by its processes, or those and its shim; what was done."""
        path = f"/v1/machines/{machine}/containers/{container_id}/kill"
        return str((await self._call("POST", path, {"shim": shim}))["done"])

    async def set_link(self, machine: str, *, up: bool) -> None:
        await self._call("POST", f"/v1/machines/{machine}/link", {"up": up})

    async def set_netem(
        self, machine: str, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0
    ) -> None:
        settings = {"delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss_percent": loss_percent}
        await self._call("POST", f"/v1/machines/{machine}/netem", settings)

    async def health(self) -> dict[str, Any]:
        return await self._call("GET", "/v1/health")

    async def need(self, feature: str) -> None:
        """Raises ProviderError when the agent's release, which may be older than this one, lacks it
        (`host_agent.FEATURES`): what has several steps must not stop before the last."""
        if feature not in (await self.health()).get("features", ()):
            raise ProviderError(_OLDER, retriable=False)

    # -- internals -----------------------------------------------------------------------------------------------
    async def _list(self, after: int) -> tuple[list[LocalMachine], int]:
        raw = await self._call("GET", f"/v1/machines?after={after}")
        found = [
            LocalMachine(
                MachineStatus(
                    row["name"], _STATES.get(row["state"], "unknown"), tuple(row["addresses"]), row.get("zone", "")
                ),
                bool(row["control_plane"]),
                int(row["pid"]),
            )
            for row in raw["machines"]
        ]
        return found, int(raw["version"])

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(path=self._socket)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession("http://host", connector=connector, timeout=timeout) as session,
                session.request(method, path, json=body) as response,
            ):
                status = response.status
                if status in (404, 405) and response.content_type != "application/json":
                    raise ProviderError(_OLDER, retriable=False)  # no such route: the agent's own refusals are JSON
                answer: dict[str, Any] = await response.json()
        except (TimeoutError, OSError, aiohttp.ClientError, ValueError) as e:
            raise ProviderError(f"the host agent at {self._socket} does not answer: {e}") from e
        if status >= 400:
            message = str(answer.get("error", f"{method} {path}: {status}"))
            raise ProviderError(message, retriable=bool(answer.get("retriable", False)))
        return answer
