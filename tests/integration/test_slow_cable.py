"""A cable that is slow or lossy without netem: real frames through a real process. Bounds are those of physics: a delay
is never shorter than asked for; how much longer it gets is the box's business."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cloud.slow_cable import SlowCable

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs TAP devices: /dev/net/tun"),
]

NAME = f"sk8tc{os.getpid() % 10000}"
SWITCH = f"{NAME}-sw"
PLAIN = {"port-a", "port-b", "br0"}
BULK = 4 << 20
SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7)); print("up", flush=True)
connection, _ = listener.accept()
connection.sendall(bytes(range(256)) * (int(sys.argv[2]) // 256)); connection.close()
"""
FETCH = """
import hashlib, socket, sys
connection, digest = socket.create_connection((sys.argv[1], 7), timeout=120), hashlib.sha256()
while data := connection.recv(1 << 16):
    digest.update(data)
print(digest.hexdigest())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


def inside(host: str, *command: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{NAME}-{host}", *command]


@pytest.fixture
def cable() -> Iterator[SlowCable]:
    """Of host a; hosts a and b are on one switch, and on one VXLAN besides."""
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "name", "br0", "type", "bridge")
        # An address in the switch's namespace, as that of the store's chaos has: nobody else may answer for it.
        ip("-n", SWITCH, "addr", "add", "10.214.0.254/24", "dev", "br0")
        ip("-n", SWITCH, "link", "set", "br0", "up")
        for number, host in ((1, "a"), (2, "b")):
            namespace = f"{NAME}-{host}"
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", f"port-{host}", "netns", SWITCH)
            ip("-n", SWITCH, "link", "set", f"port-{host}", "master", "br0", "up")
            ip("-n", namespace, "addr", "add", f"10.214.0.{number}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            vxlan = ["vxlan0", "type", "vxlan", "id", "7", "dstport", "4789", "remote", f"10.214.0.{3 - number}"]
            ip("-n", namespace, "link", "add", *vxlan, "dev", "eth0")
            ip("-n", namespace, "addr", "add", f"10.215.0.{number}/24", "dev", "vxlan0")
            ip("-n", namespace, "link", "set", "vxlan0", "up")
        found = SlowCable(SWITCH, "br0", "port-a")
        yield found
        found.mend()
        assert links() == PLAIN
    finally:
        for host in ("sw", "a", "b"):
            subprocess.run(["ip", "netns", "del", f"{NAME}-{host}"], check=False, capture_output=True, timeout=60)


def links() -> set[str]:
    said = subprocess.run(["ip", "-n", SWITCH, "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {re.split(r"[:@]", line.split(": ")[1])[0] for line in said.splitlines()} - {"lo"}


def pings(to: str, count: int = 3, wait_s: int = 10) -> list[float]:
    """Round trips in ms, of those that came back."""
    command = inside("a", "ping", "-n", "-i", "0.05", "-c", str(count), "-W", str(wait_s), to)
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    return [float(ms) for ms in re.findall(r"time=([\d.]+) ms", said)]


def fetched(address: str) -> str:
    """The digest of BULK bytes that b sends to a."""
    server = subprocess.Popen(inside("b", sys.executable, "-c", SERVE, address, str(BULK)), stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        client = inside("a", sys.executable, "-c", FETCH, address)
        return subprocess.run(client, capture_output=True, text=True, timeout=180, check=True).stdout.strip()
    finally:
        server.kill()
        server.communicate()


def test_every_frame_comes_late_both_ways_and_whole(cable: SlowCable) -> None:
    cable.spoil(delay_ms=30)
    for address in ("10.214.0.2", "10.214.0.254", "10.215.0.2"):
        found = pings(address)
        assert len(found) == 3 and min(found) >= 60, address
    # Segmentation and checksums, which veth leaves to whoever needs them, are done: TCP, alone and in VXLAN.
    whole = hashlib.sha256(bytes(range(256)) * (BULK // 256)).hexdigest()
    assert fetched("10.214.0.2") == whole
    assert fetched("10.215.0.2") == whole


def test_frames_are_lost_at_random_or_all(cable: SlowCable) -> None:
    cable.spoil(loss_percent=30)
    assert 0 < len(pings("10.214.0.2", 60, wait_s=2)) < 60
    cable.spoil(loss_percent=100)
    assert links() > PLAIN
    assert pings("10.214.0.2", 1, wait_s=1) == []
    cable.mend()
    assert len(pings("10.214.0.2")) == 3


def test_another_process_mends_it_and_a_relay_that_died_carries_nothing(cable: SlowCable) -> None:
    cable.spoil(delay_ms=1)
    assert len(pings("10.214.0.2")) == 3
    SlowCable(SWITCH, "br0", "port-a").mend()
    assert links() == PLAIN and len(pings("10.214.0.2")) == 3
    cable.spoil(delay_ms=1)
    relays = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if is_relay(path)]
    assert len(relays) == 1
    os.kill(int(relays[0].name), 9)
    until = time.monotonic() + 60
    while any(link.startswith("near") for link in links()):
        assert time.monotonic() < until, "its devices are still there"
        time.sleep(0.02)
    assert pings("10.214.0.2", 1, wait_s=1) == []
    cable.mend()
    assert len(pings("10.214.0.2")) == 3


def is_relay(cmdline: Path) -> bool:
    try:
        ours = os.stat(f"/run/netns/{SWITCH}").st_ino == os.stat(cmdline.parent / "ns" / "net").st_ino
        return ours and b"cluster.cloud.cable_relay" in cmdline.read_bytes()
    except OSError:
        return False
