"""One HTTP POST over a unix socket, without a client library: sk8-machine stays small. IO (RFC 9112)."""

from __future__ import annotations

import asyncio
from pathlib import Path

_LIMIT = 1 << 22


async def post(socket: Path, path: str, body: bytes, timeout_s: float) -> bytes:
    """The body of a 2xx answer; raises OSError when nobody listens, TimeoutError, ValueError with the refusal."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(str(socket), limit=_LIMIT)
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: host\r\nConnection: close\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:])}
            answer = await reader.readexactly(int(headers[b"content-length"]))
        except (asyncio.IncompleteReadError, KeyError, IndexError) as e:
            raise OSError(f"{socket} sent no whole answer") from e
        finally:
            writer.close()
    status = int(lines[0].split()[1])
    if not 200 <= status < 300:
        raise ValueError(f"{status}: {answer.decode(errors='replace').strip()}")
    return answer
