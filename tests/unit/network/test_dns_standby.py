"""Whether the zone of an earlier sk8-machine is believed: never after a boot; yes when it has only begun anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.network import dns_snapshot
from cluster.network.dns_standby import DnsStandby
from cluster.network.dns_zone import Zone, zone_config
from tests.support.dns_proxy_process import config


@pytest.mark.parametrize("same_boot", [True, False])
async def test_the_zone_outlives_sk8_machine_but_no_boot(tmp_path: Path, same_boot: bool) -> None:
    settings = config(str(tmp_path / "dns.sock"), str(tmp_path / "zone"))
    (tmp_path / "zone").write_bytes(dns_snapshot.pack(Zone(zone_config(settings))))
    standby = DnsStandby(settings, same_boot=same_boot)
    task = asyncio.create_task(standby.run())
    try:
        async with asyncio.timeout(60):
            while not standby.health()["standing_in"]:
                await asyncio.sleep(0.01)
        assert (tmp_path / "zone").exists() is same_boot
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
