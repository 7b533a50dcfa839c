"""The zone as a file, for whoever answers while the Proxy is away. IO: one small file, not fsynced.

msgpack [FORMAT, [[owner, [[name, type, [rdata...]]...]]...], [[pod, address]...]]. It is only believed within one boot
of the machine, at which sk8-machine removes what was left: names of before a reboot may mean something else now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgpack

from cluster.network.dns_zone import Zone

log = logging.getLogger(__name__)

FORMAT = 1
_PAUSE_S = 0.5
_PAUSE_FACTOR = 20
"""Between two writes at least so many times what one takes: a large zone that changes all the time stays affordable."""


def pack(zone: Zone) -> bytes:
    owners = [
        [owner, [[name, rtype, rdata] for (name, rtype), rdata in records.items()]]
        for owner, records in zone.owned.items()
        if owner
    ]
    packed: bytes = msgpack.packb([FORMAT, owners, [list(pod) for pod in zone.pods()]], use_bin_type=True)
    return packed


def load(zone: Zone, path: Path) -> bool:
    """Fill an empty zone; whether there was something to believe."""
    try:
        value = msgpack.unpackb(path.read_bytes(), raw=False, strict_map_key=False)
        if value[0] != FORMAT:
            raise ValueError(f"format {value[0]!r}; this version reads {FORMAT}")
        for owner, records in value[1]:
            zone.set_owner(owner, {(name, rtype): rdata for name, rtype, rdata in records})
        for pod, address in value[2]:
            zone.set_pod(pod, address)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, IndexError, msgpack.UnpackException) as err:
        log.error("the zone's file %s cannot be read: %s", path, err)
        return False
    return True


class Saver:
    """Writes the zone soon after each change: at once when it was quiet, else after a pause."""

    def __init__(self, zone: Zone, path: str) -> None:
        self._zone = zone
        self._path = Path(path)
        self._saved = -1
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Returns only by cancellation."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.perf_counter()
            try:
                await asyncio.to_thread(self._write, pack(self._zone))
            except OSError as err:
                log.error("the zone's file %s cannot be written: %s", self._path, err)
            await asyncio.sleep(max(_PAUSE_S, _PAUSE_FACTOR * (time.perf_counter() - began)))

    def _write(self, data: bytes) -> None:
        new = self._path.with_name(self._path.name + ".new")
        new.write_bytes(data)
        new.replace(self._path)
