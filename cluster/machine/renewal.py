"""New certificates before the old ones end, while the machine runs. IO (its files, the signer's socket).

Kubernetes' kubelets do the same (kubelet certificate rotation, KEP-266) in the last third or so of a certificate.
Every part reads its certificates when it starts, so Ray and the actors begin anew, one machine at a time; what
sk8-machine itself serves takes the new ones with the next connection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from cluster.machine import identity
from cluster.machine.joining import JoinRefused
from cluster.machine.machine_config import MachineConfig
from cluster.machine.unix_http import post

log = logging.getLogger(__name__)

CHECK_S = 3600.0
"""Four months are left when one is due: an hour is soon enough, and how soon a refused attempt is repeated."""


class Restarts(Protocol):
    def restart_in_turn(self) -> None: ...


class Renewal:
    """`run()` never returns. `contexts`: those of this process that show the node's certificate."""

    def __init__(
        self,
        machine: MachineConfig,
        ask: Callable[[], Awaitable[None]],
        contexts: Sequence[ssl.SSLContext],
        restarts: Restarts,
        renew_admin: Callable[[], None] | None = None,
    ) -> None:
        """`ask` brings new certificates to the disk; it raises as `renew` and `joining.renew` do. `renew_admin`:
        `Authority.renew_admin` of a machine that holds the CA."""
        self._machine = machine
        self._ask = ask
        self._contexts = contexts
        self._restarts = restarts
        self._renew_admin = renew_admin
        self._wanted = asyncio.Event()

    def now(self) -> None:
        """Renew at once, though the certificates may last."""
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._tend_admin()
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._wanted.wait()
            except TimeoutError:
                if await asyncio.to_thread(identity.is_complete, self._machine):
                    continue
            self._wanted.clear()
            try:
                await self._ask()
            except (JoinRefused, OSError, TimeoutError, ValueError) as e:
                log.error("no new certificates, the next attempt is in %g s: %s", CHECK_S, e)
                continue
            for context in self._contexts:
                context.load_cert_chain(self._machine.pki / "node.crt", self._machine.pki / "node.key")
            self._restarts.restart_in_turn()

    async def _tend_admin(self) -> None:
        """On VMs `sk8 up` never runs, and the join server needs it to see who is a node (`api_nodes.py`)."""
        if self._renew_admin is None:
            return
        try:
            await asyncio.to_thread(self._renew_admin)
        except (OSError, ValueError) as e:
            log.error("no new certificate for the administrator, the next attempt is in %g s: %s", CHECK_S, e)


async def renew(machine: MachineConfig, signer: Path) -> None:
    """Asks for certificates of new keys, installs both. Raises OSError, TimeoutError, ValueError with the refusal."""
    request = await asyncio.to_thread(identity.join_request, machine)
    reply = await post(signer, "/v1/join", request.to_json(), timeout_s=30)
    await asyncio.to_thread(identity.install, machine, request, identity.JoinReply.from_json(reply))
    log.info("%d new certificates", len(request.requests))
