"""Which resolvers to ask about names outside the cluster, and in which order. Pure; the caller says `now`.

Two tiers: the cluster's own (the ready `coredns` pods, in turns), which share one cache for the whole cluster; then
those of the machine's configuration, which need nothing of the cluster. One that was silent is asked last for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Address = tuple[str, int]
SILENT_S = 5.0


class Upstreams:
    def __init__(self, configured: Sequence[Address] = ()) -> None:
        self._configured = tuple(configured)
        self._cluster: tuple[Address, ...] = ()
        self._turn = 0
        self._silent: dict[Address, float] = {}

    def __bool__(self) -> bool:
        return bool(self._cluster or self._configured)

    @property
    def cluster(self) -> tuple[Address, ...]:
        return self._cluster

    def set_cluster(self, addresses: Iterable[Address]) -> None:
        self._cluster = tuple(sorted(set(addresses)))
        known = {*self._cluster, *self._configured}
        self._silent = {address: until for address, until in self._silent.items() if address in known}

    def in_order(self, now: float) -> list[Address]:
        self._turn += 1
        at = self._turn % len(self._cluster) if self._cluster else 0
        asked = [*self._cluster[at:], *self._cluster[:at], *self._configured]
        return sorted(asked, key=lambda address: self._silent.get(address, 0.0) > now)

    def answered(self, address: Address) -> None:
        self._silent.pop(address, None)

    def silent(self, address: Address, now: float) -> None:
        self._silent[address] = now + SILENT_S
