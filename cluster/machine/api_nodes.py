"""What the API knows of a node, and of the machines that were forgotten: HTTPS requests to the API server of this
control plane, without a client library, as sk8-machine stays small. IO (RFC 9112)."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from cluster.api import forgotten
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig

_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """`addresses`: of the Node, none when there is no such Node. `forgotten`: when a machine of that name was last
    forgotten, in seconds since the epoch; 0 for never."""

    addresses: tuple[str, ...] = ()
    forgotten: float = 0.0


async def known(config: ClusterConfig, machine: MachineConfig, name: str) -> Known:
    """Raises OSError, TimeoutError and ValueError when it cannot be told."""
    async with asyncio.timeout(_WITHIN_S):
        marks = await _get(config, machine, f"/api/v1/namespaces/{forgotten.NAMESPACE}/configmaps/{forgotten.NAME}")
        node = await _get(config, machine, f"/api/v1/nodes/{quote(name, safe='')}")
    found = (node.get("status") or {}).get("addresses") or ()
    return Known(tuple(str(each["address"]) for each in found), forgotten.forgotten_at(marks, name))


async def _get(config: ClusterConfig, machine: MachineConfig, path: str) -> dict[str, Any]:
    """The object; an empty one when there is none."""
    context = ssl.create_default_context(cafile=str(machine.pki / "ca.crt"))
    context.load_cert_chain(config.pki / "admin.crt", config.pki / "admin.key")
    reader, writer = await asyncio.open_connection(
        machine.ip, config.api_port, ssl=context, server_hostname="kubernetes"
    )
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: kubernetes\r\nConnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in head if line.startswith(b"content-length:"))
        status, body = int(head[0].split()[1]), await reader.readexactly(length)
    except (ValueError, IndexError, EOFError, StopIteration) as e:
        raise OSError("the API server sent no whole answer") from e
    finally:
        writer.close()
    if status not in (200, 404):
        raise OSError(f"the API server answers {status}")
    found: dict[str, Any] = orjson.loads(body) if status == 200 else {}
    return found
