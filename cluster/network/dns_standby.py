"""Answers DNS while this machine's Proxy is away: a part of sk8-machine. IO; composition of the other dns files.

It opens the sockets at boot, lends them to the Proxy (`dns_handover.py`), and reads them itself whenever no Proxy
does, from the zone the Proxy last wrote (`dns_snapshot.py`). It holds no zone while the Proxy serves, and never asks
the API server: names may be as old as the Proxy's death, as the machine's service maps are then.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from cluster.network import dns_snapshot
from cluster.network.config import DnsConfig
from cluster.network.dns_core import Resolver
from cluster.network.dns_elsewhere import Lookups
from cluster.network.dns_forward import forwarder_of, resolv_conf_of
from cluster.network.dns_handover import Holder
from cluster.network.dns_serve import Answers, bind
from cluster.network.dns_upstreams import Upstreams
from cluster.network.dns_zone import Zone, zone_config

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class DnsStandby:
    """`run()` until cancelled. `config.handover_socket` and `config.zone_file` must be set."""

    def __init__(self, config: DnsConfig, *, same_boot: bool = False) -> None:
        """`same_boot`: sk8-machine has only begun anew, so the zone's file is of this boot and is believed."""
        config.validate()
        self._config = config
        self._same_boot = same_boot
        self._zone_file = Path(config.zone_file)
        self._answers: Answers | None = None
        self.answered = 0
        self.port = 0

    async def run(self) -> None:
        """Returns only by cancellation: the machine must not end because its DNS cannot be lent."""
        while True:
            try:
                await self._run()
            except OSError as err:
                log.error("DNS cannot be served from here, trying again: %s", err)
                await asyncio.sleep(_RETRY_S)

    async def _run(self) -> None:
        if not self._same_boot:
            self._zone_file.unlink(missing_ok=True)
        self._sockets = await bind(self._config.listen_ip, self._config.port)
        self.port = int(self._sockets[0].getsockname()[1])
        try:
            await Holder(Path(self._config.handover_socket), self._sockets, self._stand_in, self._stand_back).run()
        finally:
            self._stand_back()
            for one in self._sockets:
                one.close()

    def health(self) -> dict[str, object]:
        return {"standing_in": self._answers is not None, "answered": self.answered}

    async def _stand_in(self) -> None:
        config = self._config
        zone = Zone(zone_config(config))
        resolver = Resolver(zone)
        resolver.ready = dns_snapshot.load(zone, self._zone_file)
        forwarder = forwarder_of(config, Upstreams(resolv_conf_of(config)[0]))
        self._answers = Answers(resolver, Lookups(zone, forwarder), self._count)
        await self._answers.start(self._sockets)

    def _stand_back(self) -> None:
        answers, self._answers = self._answers, None
        if answers is not None:
            answers.stop()

    def _count(self, *_: object) -> None:
        self.answered += 1
