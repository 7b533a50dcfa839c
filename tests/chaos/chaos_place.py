"""Where the chaos happens: a network namespace, a link and a disk for each member, and ways to break each. IO; root.

    <name>-sw: bridge, 10.213.0.254, the clients --- veth --- <name>-1: member 1, 10.213.0.1, its own ext4 image
                                                 '-- veth --- <name>-2 ...

Everything has ``name`` in it and is gone after ``remove``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from cluster.cloud.slow_cable import SlowCable

DISK = "512M"


def run(*command: str, check: bool = True, text: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ip_of(member: int) -> str:
    return f"10.213.0.{member}"


class Place:
    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.switch = f"{name}-sw"
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "name", "switch", "type", "bridge")
        run("ip", "-n", self.switch, "addr", "add", f"{ip_of(254)}/24", "dev", "switch")
        for link in ("lo", "switch"):
            run("ip", "-n", self.switch, "link", "set", link, "up")
        self.members: list[int] = []
        self._cables: dict[int, SlowCable] = {}

    def add(self, member: int) -> None:
        namespace = self.namespace(member)
        run("ip", "netns", "add", namespace)
        run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", f"m{member}", "netns", self.switch)
        run("ip", "-n", self.switch, "link", "set", f"m{member}", "master", "switch", "up")
        run("ip", "-n", namespace, "addr", "add", f"{ip_of(member)}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", namespace, "link", "set", link, "up")
        image, disk = self.root / f"disk-{member}.img", self.disk(member)
        run("truncate", "-s", DISK, str(image))
        run("mkfs.ext4", "-q", "-m0", "-O", "^has_journal", str(image))
        disk.mkdir()
        run("mount", "-o", "loop", str(image), str(disk))
        self.members.append(member)

    def namespace(self, member: int) -> str:
        return f"{self.name}-{member}"

    def disk(self, member: int) -> Path:
        return self.root / f"disk-{member}"

    def enter(self, member: int) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace(member)}"]

    # --- the network

    def cut(self, member: int, others: list[int], *, incoming: bool = True, outgoing: bool = True) -> None:
        """No packet passes between ``member`` and ``others``, in one or both directions, and nobody is told."""
        rules = [
            "table ip chaos {",
            f"set others {{ type ipv4_addr; elements = {{ {', '.join(map(ip_of, others))} }} }}",
        ]
        if incoming:
            rules.append("chain in { type filter hook input priority 0; ip saddr @others drop; }")
        if outgoing:
            rules.append("chain out { type filter hook output priority 0; ip daddr @others drop; }")
        self.heal(member)
        run(*self.enter(member), "nft", "-f", "-", text="\n".join([*rules, "}"]))

    def spoil(self, member: int, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> None:
        """What comes to ``member`` and from it comes late, or is lost at random."""
        self._cable(member).spoil(delay_ms=delay_ms, jitter_ms=jitter_ms, loss_percent=loss_percent)

    def mend(self, member: int) -> None:
        self._cable(member).mend()

    def _cable(self, member: int) -> SlowCable:
        if member not in self._cables:
            self._cables[member] = SlowCable(self.switch, "switch", f"m{member}")
        return self._cables[member]

    def heal(self, member: int) -> None:
        run(*self.enter(member), "nft", "delete", "table", "ip", "chaos", check=False)

    # --- the disk

    def fill(self, member: int) -> None:
        free = shutil.disk_usage(self.disk(member)).free
        with (self.disk(member) / "balloon").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(4096, free - 65536))

    def empty(self, member: int) -> None:
        (self.disk(member) / "balloon").unlink(missing_ok=True)

    def remove(self) -> None:
        clean_up(self.name, self.root)


def clean_up(name: str, root: Path) -> None:
    """Everything of ``name`` is gone, its processes first; also after whoever made it was killed."""
    namespaces = [line.split()[0] for line in run("ip", "netns", "list", check=False).splitlines()]
    mine = [namespace for namespace in namespaces if namespace.startswith(f"{name}-")]
    for namespace in mine:
        for pid in run("ip", "netns", "pids", namespace, check=False).split():
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    for disk in root.glob("disk-*"):
        if os.path.ismount(disk):
            run("umount", "-l", str(disk), check=False)
    for namespace in mine:
        run("ip", "netns", "del", namespace, check=False)
