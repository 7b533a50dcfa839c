"""Benchmarks that run at once keep out of each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _loopback_network
from benchmarks._loopback_network import Network, claim
from benchmarks._stack import LOCAL_PORTS, cluster_of


def test_two_at_once_share_no_address_and_no_port(tmp_path: Path) -> None:
    one, other = claim(), claim()
    try:
        clusters = [cluster_of(tmp_path / str(n.number), 3, n) for n in (one, other)]
        addresses = [{m.ip for m in c.machines} | {c.host_ip} for c in clusters]
        ports = [{getattr(c, name) + 1000 * i for name in LOCAL_PORTS for i in range(1, 4)} for c in clusters]
        assert not addresses[0] & addresses[1]
        assert not ports[0] & ports[1]
    finally:
        one.give_up()
        other.give_up()


def test_a_network_that_was_given_up_can_be_had_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = claim()
    monkeypatch.setattr(_loopback_network, "FIRST", taken.number)
    monkeypatch.setattr(_loopback_network, "LAST", taken.number)
    try:
        with pytest.raises(RuntimeError, match="in use by other benchmarks"):
            claim()
    finally:
        taken.give_up()
    again = claim()
    again.give_up()
    assert again.number == taken.number


def test_ports_of_different_parts_stay_apart_in_all_networks() -> None:
    networks = [Network(n) for n in range(_loopback_network.FIRST, _loopback_network.LAST + 1)]
    usual = [2381, 10257, 10259]
    ports = [n.port(port) for n in networks for port in usual]
    assert len(set(ports)) == len(ports)
