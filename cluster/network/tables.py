"""Keeps one nft table as it should be, whoever else touches it. IO: nft transactions in a thread, netlink events.

`KeptTable` knows nothing of Services or ports: its owner gives it whole texts (`replace`) and small ones (`apply`);
it runs them one at a time, and calls `on_foreign` when somebody else changed the table, so that the owner replaces it.
Invariant: between `replace` and the next call of `on_foreign`, the table holds what the owner last put there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.network.netlink import NftWatch
from cluster.network.nft import NftError, NftRunner, open_nft


class KeptTable:
    def __init__(self, family: str, name: str, on_foreign: Callable[[], None], nft: NftRunner | None = None) -> None:
        self._tables = ((family, name),)
        self._name = f"{family} {name}"
        self._on_foreign = on_foreign
        self._nft = nft
        self._watch: NftWatch | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"nft-{family}-{name}")

    async def replace(self, commands: str) -> None:
        """One transaction that makes the whole table anew. Raises NftError."""
        if self._watch is not None:  # a big transaction would only fill the buffer of our own ears
            self._watch.close()
            self._watch = None
        await self._in_thread(self._run, commands)
        self._watch = NftWatch(self._tables, self._on_foreign)

    async def apply(self, commands: str) -> None:
        """One transaction that changes the table. Raises NftError."""
        await self._in_thread(self._run, commands)
        if self._watch is not None:
            self._watch.own()

    async def listing(self, what: str) -> list[dict[str, Any]]:
        """`list WHAT` (e.g. "map ip sk8 affinity") as nft's JSON objects; [] when there is no such thing."""
        try:
            found: list[dict[str, Any]] = await self._in_thread(self._open().listing, what)
            return found
        except NftError:
            return []

    def close(self) -> None:
        """Leaves the table in the kernel: connections go on without this process."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._executor.shutdown(wait=True)
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    def _run(self, commands: str) -> str:
        return self._open().run(commands)

    def _open(self) -> NftRunner:
        if self._nft is None:
            self._nft = open_nft()
        return self._nft

    async def _in_thread(self, func: Callable[[str], Any], argument: str) -> Any:
        # shield: a cancelled caller must not leave a transaction half noticed
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, func, argument))
