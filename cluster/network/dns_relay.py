"""The box's resolvers for the machines on it: forwards every name, from an address the machines reach. IO.

A box's resolv.conf may name what only the box can reach (127.0.0.53, a resolver of its own network, for which nobody
translates the machines' addresses). So the host agent answers on the box's end of the switch, from the same forwarder
and cache as the cluster's servers. It follows changes of resolv.conf, as a box that moves between networks has them.
"""

from __future__ import annotations

import asyncio
import os

from cluster.network import dns_wire as wire
from cluster.network.config import DnsConfig
from cluster.network.dns_core import Kept, Reply, read
from cluster.network.dns_elsewhere import Elsewhere, Lookups
from cluster.network.dns_forward import forwarder_of, resolv_conf_of
from cluster.network.dns_serve import Answers, bind
from cluster.network.dns_upstreams import Address, Upstreams
from cluster.network.dns_zone import Answer


class DnsRelay:
    """`run()` until cancelled; waits while somebody else holds the port."""

    def __init__(self, listen_ip: str, *, port: int = 53, resolv_conf: str = "/etc/resolv.conf") -> None:
        self._config = DnsConfig(listen_ip=listen_ip, port=port, resolv_conf=resolv_conf)
        self.port = 0

    async def run(self) -> None:
        """Returns only by cancellation."""
        forwarder = forwarder_of(self._config, _FileUpstreams(self._config))
        answers = Answers(_Everything(), Lookups(_Nothing(), forwarder), lambda *_: None)
        sockets = await bind(self._config.listen_ip, self._config.port)
        try:
            await answers.start(sockets)
            self.port = int(sockets[0].getsockname()[1])
            await asyncio.Event().wait()
        finally:
            answers.stop()
            for one in sockets:
                one.close()


class _FileUpstreams(Upstreams):
    """Those of a resolv.conf, read again when it has changed."""

    def __init__(self, config: DnsConfig) -> None:
        super().__init__()
        self._config = config
        self._seen: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        self._refresh()
        return super().__bool__()

    def in_order(self, now: float) -> list[Address]:
        self._refresh()
        return super().in_order(now)

    def _refresh(self) -> None:
        try:
            stat = os.stat(self._config.resolv_conf)
        except FileNotFoundError:
            return
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen:
            self._seen = seen
            self.set_cluster(resolv_conf_of(self._config)[0])


class _Everything:
    """Every well-formed question is somebody else's."""

    def quick(self, data: bytes, client: str) -> Kept | None:
        return None

    def answer(self, data: bytes, client: str = "", *, tcp: bool = False) -> Reply | Elsewhere | None:
        query = read(data)
        return Elsewhere(query, (query.name,)) if isinstance(query, wire.Query) else query


class _Nothing:
    def answer(self, name: bytes, qtype: int) -> Answer | None:
        return None
