"""Links that go while they are looked at."""

from __future__ import annotations

import errno

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from cluster.cloud.netlink import remove_link, set_state


class Kernel:
    """One link, which is found; what is done to it ends with `code`."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.asked: list[tuple[str, dict[str, object]]] = []

    def link_lookup(self, ifname: str) -> list[int]:
        return [7] if ifname == "sk8-m1" else []

    def link(self, command: str, **what: object) -> None:
        self.asked.append((command, what))
        if self.code:
            raise NetlinkError(self.code)


def test_a_link_that_goes_meanwhile_is_gone() -> None:
    kernel = Kernel(errno.ENODEV)
    remove_link(kernel, "sk8-m1")
    assert not set_state(kernel, "sk8-m1", "down")
    assert kernel.asked == [("del", {"index": 7}), ("set", {"index": 7, "state": "down"})]


def test_another_failure_is_told() -> None:
    with pytest.raises(NetlinkError):
        remove_link(Kernel(errno.EPERM), "sk8-m1")


def test_what_is_there_is_changed_and_what_is_not_is_left() -> None:
    kernel = Kernel(0)
    assert set_state(kernel, "sk8-m1", "up") and not set_state(kernel, "sk8-m2", "up")
    assert kernel.asked == [("set", {"index": 7, "state": "up"})]
