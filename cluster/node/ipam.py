"""Which pod sandbox has which address of this machine's pod range.

`Allocator` is pure; `AddressBook` keeps one on disk. Invariants: an address has one owner, an owner one address; the
network address, the gateway (.1) and the last (broadcast) address are never given out; an address that was freed is
reused as late as possible (stale peers must not meet a new pod there). The file is replaced atomically before an
address is used and is reconciled with the live sandboxes at start, so a crash leaks nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
_FORMAT = 1


class RangeExhausted(Exception):
    """No address is free."""


@dataclass(slots=True)
class Allocator:
    """Host-local IPAM for one range. `last` is where the search continues."""

    cidr: str
    owners: dict[str, str] = field(default_factory=dict)  # owner -> address
    last: str = ""
    _network: ipaddress.IPv4Network | ipaddress.IPv6Network = field(init=False, repr=False)
    _used: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        network = ipaddress.ip_network(self.cidr)
        if network.num_addresses < 4:
            raise ValueError(f"pod range {self.cidr}: must hold at least 4 addresses")
        self._network = network
        self._used = {ipaddress.ip_address(a) for a in self.owners.values()}

    @property
    def gateway(self) -> str:
        return str(self._network[1])

    @property
    def free(self) -> int:
        return self._network.num_addresses - 3 - len(self._used)

    def allocate(self, owner: str) -> str:
        """The owner's address, a new one if it has none. Raises RangeExhausted."""
        if owner in self.owners:
            return self.owners[owner]
        size = self._network.num_addresses
        start = int(ipaddress.ip_address(self.last)) - int(self._network[0]) if self.last else 1
        for step in range(1, size):
            offset = (start + step) % size
            address = self._network[offset]
            if offset in (0, 1, size - 1) or address in self._used:
                continue
            self._used.add(address)
            self.owners[owner] = self.last = str(address)
            return str(address)
        raise RangeExhausted(f"no free address in the pod range {self.cidr}")

    def release(self, owner: str) -> bool:
        address = self.owners.pop(owner, None)
        if address is None:
            return False
        self._used.discard(ipaddress.ip_address(address))
        return True


class AddressBook:
    """An Allocator on disk. Not thread-safe: one caller at a time."""

    def __init__(self, path: Path, cidr: str) -> None:
        """Opens the file, or begins anew when it is absent, damaged, or of another range."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._allocator = _load(path, cidr)

    @property
    def gateway(self) -> str:
        return self._allocator.gateway

    @property
    def owners(self) -> dict[str, str]:
        return dict(self._allocator.owners)

    def address(self, owner: str) -> str:
        """ "" when it has none."""
        return self._allocator.owners.get(owner, "")

    def allocate(self, owner: str) -> str:
        known = owner in self._allocator.owners
        address = self._allocator.allocate(owner)
        if not known:
            self._save()
        return address

    def release(self, owner: str) -> None:
        if self._allocator.release(owner):
            self._save()

    def _save(self) -> None:
        state: dict[str, Any] = {
            "format": _FORMAT,
            "cidr": self._allocator.cidr,
            "last": self._allocator.last,
            "owners": self._allocator.owners,
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self._path)


def _load(path: Path, cidr: str) -> Allocator:
    with contextlib.suppress(FileNotFoundError):
        try:
            state = json.loads(path.read_text())
            if state["format"] == _FORMAT and state["cidr"] == cidr:
                return Allocator(cidr, dict(state["owners"]), str(state["last"]))
            log.warning("%s is of range %s, not %s: starting afresh", path, state.get("cidr"), cidr)
        except (ValueError, KeyError, TypeError) as err:
            # Addresses of live sandboxes are restored from their links' routes (see cni.reconcile).
            log.warning("%s is damaged (%s): starting afresh", path, err)
    return Allocator(cidr)
