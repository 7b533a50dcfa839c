"""What the API knows of a node: one HTTPS request to the API server of this control plane, without a client library, as
sk8-machine stays small. IO (RFC 9112)."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import quote

import orjson

from cluster.machine.config import ClusterConfig, MachineConfig

_WITHIN_S = 10.0


async def addresses(config: ClusterConfig, machine: MachineConfig, name: str) -> list[str]:
    """Of that Node; none when there is no such Node. Raises OSError and TimeoutError when it cannot be told."""
    context = ssl.create_default_context(cafile=str(machine.pki / "ca.crt"))
    context.load_cert_chain(config.pki / "admin.crt", config.pki / "admin.key")
    async with asyncio.timeout(_WITHIN_S):
        reader, writer = await asyncio.open_connection(
            machine.ip, config.api_port, ssl=context, server_hostname="kubernetes"
        )
        try:
            path = f"/api/v1/nodes/{quote(name, safe='')}"
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
    found = orjson.loads(body).get("status", {}) if status == 200 else {}
    return [str(each["address"]) for each in found.get("addresses", [])]
