"""Which Ray cluster the head runs now, and whose turn it is to join it anew: a small protocol between sk8-machines.

A head that lost its disk starts a new Ray cluster (a new *epoch*). The raylets of the other machines then belong to a
cluster that is gone for good: they spin, and nothing new can be placed on them. Each has to be restarted, which takes
that machine's actors down for some seconds; two at once would cost the store its quorum. So turns are given by the
head's sk8-machine, one at a time, and a turn is held by the open connection: whoever dies loses it.

 worker                           head
 {"op":"status"}\\n          -->   {"machine","epoch","ensured","ray","head"}\\n
 {"op":"head","head"}\\n     -->   the same; what is newer is believed (head.py), of control planes alone
 {"op":"rejoin","machine"}\\n -->   ... waits its turn ...  {"go":true}\\n      (turn ends when the connection closes)

Mutual TLS with node certificates; one JSON object a line. IO.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography import x509

from cluster.machine.files import write_atomic
from cluster.machine.machine_config import MachineConfig
from cluster.machine.pki import machine_user
from cluster.machine.ray_command import gcs_dir

log = logging.getLogger(__name__)
RUNNING: Final = "running"
NODE_USER = "system:node:"


class Unreachable(Exception):
    """The head's sk8-machine does not answer; nothing can be concluded from it."""


@dataclass(frozen=True, slots=True)
class HeadStatus:
    """`head`: what it believes of Ray's head, as it was sent; `ray`: what Ray does there, RUNNING or another phase;
    `release`: which copy of sk8 it runs; `life`: another one for each start of sk8-machine; `settings`: the digest of
    those it began with (changes.py)."""

    epoch: str
    ensured: bool
    head: Any = None
    ray: str = ""
    release: str = ""
    life: str = ""
    settings: str = ""


def current_epoch(machine: MachineConfig, generation: int = 0) -> str:
    """The head's epoch: made anew when Ray's metadata is not there, or is of another time as head. Call before Ray
    starts. An epoch of generation 0 has no prefix."""
    file = machine.ray_dir / "epoch"
    storage = gcs_dir(machine)
    prefix = f"{generation}-" if generation else ""
    if file.exists() and storage.is_dir() and any(storage.iterdir()):
        epoch = file.read_text().strip()
        if epoch.rpartition("-")[0] == prefix.rstrip("-"):
            return epoch
        shutil.rmtree(storage)
    storage.mkdir(parents=True, exist_ok=True)
    epoch = prefix + secrets.token_hex(8)
    write_atomic(file, epoch.encode())
    return epoch


def set_metadata_aside(machine: MachineConfig) -> None:
    """Ray's metadata is disposable: the next start as head is a new epoch. One copy is kept to look at. Call while no
    Ray of ours runs."""
    storage, aside = gcs_dir(machine), machine.ray_dir / "gcs.failed"
    if storage.exists():
        shutil.rmtree(aside, ignore_errors=True)
        storage.rename(aside)


def contexts(machine: MachineConfig) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server, client) contexts that both show and demand a certificate of the cluster's CA."""
    ca, cert, key = (str(machine.pki / f) for f in ("ca.crt", "node.crt", "node.key"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=ca)
    client.load_cert_chain(cert, key)
    return server, client


class HeadServer:
    """The head's side. `status` is asked on every request; at most one machine holds the turn."""

    def __init__(
        self,
        listen: tuple[str, int],
        context: ssl.SSLContext,
        status: Callable[[], dict[str, Any]],
        *,
        turn_s: float,
        learn: Callable[[Any], None] | None = None,
        planes: Sequence[str] = (),
    ) -> None:
        """`learn` takes who is head, from the machines named in `planes`. A turn ends after `turn_s`: never sooner than
        its holder can need, or two machines restart at once."""
        self._listen = listen
        self._context = context
        self._status = status
        self._turn_s = turn_s
        self._learn = learn
        self._planes = planes
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, *self._listen, ssl=self._context, reuse_address=True)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not caller(writer):  # the CA certifies users too, by their signing requests
                return
            request = orjson.loads(await asyncio.wait_for(reader.readline(), 5))
            if request.get("op") in ("status", "head"):
                if "head" in request and self._learn is not None and caller(writer) in self._planes:
                    self._learn(request["head"])
                writer.write(orjson.dumps(self._status()) + b"\n")
                await writer.drain()
            elif request.get("op") == "rejoin":
                await self._give_turn(str(request.get("machine")), reader, writer)
        except (OSError, TimeoutError, ValueError, AttributeError) as e:
            log.debug("a request to the head failed: %s", e)
        except asyncio.CancelledError:
            writer.transport.abort()  # nobody is left who would see a close in good order to its end
            raise
        finally:
            writer.close()

    async def _give_turn(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = asyncio.ensure_future(reader.read(1))
        waiting = asyncio.ensure_future(self._turn.acquire())
        try:
            await asyncio.wait({closed, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if closed.done() or not waiting.done():
                return
            log.info("machine %s rejoins Ray", name)
            writer.write(b'{"go":true}\n')
            await writer.drain()
            # A machine that loses power in its turn never closes the connection: the turn ends by time.
            await asyncio.wait({closed}, timeout=self._turn_s)
        finally:
            closed.cancel()
            if waiting.done() and not waiting.cancelled():
                self._turn.release()
            waiting.cancel()


def shown(writer: asyncio.StreamWriter) -> x509.Certificate | None:
    """The certificate of the other side, which TLS has verified; None without one."""
    certificate = writer.get_extra_info("ssl_object").getpeercert(True)
    return x509.load_der_x509_certificate(certificate) if certificate else None


def caller(writer: asyncio.StreamWriter) -> str:
    """The machine on the other side, by its certificate; "" for anybody else."""
    certificate = shown(writer)
    user = machine_user(certificate) if certificate is not None else ""
    return user.removeprefix(NODE_USER) if user.startswith(NODE_USER) else ""


class HeadClient:
    """The other machines' side."""

    def __init__(self, endpoint: tuple[str, int], context: ssl.SSLContext, name: str | None = None) -> None:
        """`name`: what the certificate there must say, instead of the address."""
        self._endpoint = endpoint
        self._tls: dict[str, Any] = {"ssl": context, "server_hostname": name}

    async def status(self, timeout_s: float = 2.0, *, tell: Any = None) -> HeadStatus:
        """`tell`: who is head, for a machine that may not know. Raises Unreachable."""
        request: dict[str, Any] = {"op": "status"} if tell is None else {"op": "head", "head": tell}
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(*self._endpoint, **self._tls)
                try:
                    writer.write(orjson.dumps(request) + b"\n")
                    raw = orjson.loads(await reader.readline())
                finally:
                    writer.close()
            texts = (str(raw.get(name, "")) for name in ("ray", "release", "life", "settings"))
            return HeadStatus(str(raw["epoch"]), bool(raw["ensured"]), raw.get("head"), *texts)
        except (OSError, TimeoutError, ValueError, KeyError, TypeError) as e:
            raise Unreachable(f"{self._endpoint[0]}:{self._endpoint[1]}: {e}") from e

    @asynccontextmanager
    async def turn(self, machine: str, patience_s: float) -> AsyncIterator[bool]:
        """Holds this machine's turn inside the block. Yields False when it was not given within `patience_s`."""
        writer: asyncio.StreamWriter | None = None
        given = False
        try:
            try:
                async with asyncio.timeout(patience_s):
                    reader, writer = await asyncio.open_connection(*self._endpoint, **self._tls)
                    writer.write(orjson.dumps({"op": "rejoin", "machine": machine}) + b"\n")
                    given = b"go" in await reader.readline()
            except (OSError, TimeoutError) as e:
                log.warning("no turn to rejoin Ray: %s", str(e) or "timed out")
            yield given
        finally:
            if writer is not None:
                writer.close()
