"""Loopback networks, each for one control plane: benchmarks and tests that run at once on a box must not reach each
other's servers. IO: a socket's name.

A network 127.0.N.0/24 is taken by an abstract unix socket (unix(7)). Like the addresses it belongs to the network
namespace, and it is free again once the process has ended, however it did.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field

FIRST, LAST = 10, 41
"""127.0.9.51 is the peer's (`_peer`)."""
PORTS_APART = 20
"""More than the usual ports differ, less than makes 1,000 over all networks: `_stack.on_machine` adds those."""
_NAME = "\0sk8-benchmarks-127.0.{}.0"


@dataclass(slots=True)
class Network:
    """`number`: N of 127.0.N.0/24."""

    number: int = FIRST
    _claim: socket.socket | None = field(default=None, repr=False)

    def address(self, host: int) -> str:
        return f"127.0.{self.number}.{host}"

    @property
    def cidr(self) -> str:
        return f"{self.address(0)}/24"

    def port(self, usual: int) -> int:
        """For what every machine has on 127.0.0.1, which all networks share."""
        return usual + PORTS_APART * (1 + self.number - FIRST)

    def give_up(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None


USUAL = Network()
"""Taken from nobody: for who has a network namespace of its own, or needs names alone."""


def claim() -> Network:
    """One that nobody has. Raises RuntimeError when all are taken."""
    for number in range(FIRST, LAST + 1):
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(_NAME.format(number))
        except OSError as err:
            taken.close()
            if err.errno != errno.EADDRINUSE:
                raise
            continue
        return Network(number, taken)
    raise RuntimeError(
        f"all of 127.0.{FIRST}.0/24 to 127.0.{LAST}.0/24 are in use by other benchmarks: try again later"
    )
