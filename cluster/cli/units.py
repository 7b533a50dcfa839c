"""systemd on a VM, as far as sk8 needs it. IO (systemctl)."""

from __future__ import annotations

import subprocess

from cluster.cli.output import CommandError

MACHINE = "sk8-machine.service"
AUTOSCALERS = "sk8-autoscaler@*.service"


def systemctl(*arguments: str) -> None:
    """Raises CommandError."""
    try:
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False, timeout=240)
    except FileNotFoundError as e:
        raise CommandError("there is no systemd here", "use a machine with one; sk8 up needs none") from e
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise CommandError(f"systemctl {' '.join(arguments)}: {said}", f"journalctl -u {arguments[-1]} says more")


def start(unit: str) -> None:
    """Now and at each boot."""
    systemctl("enable", "--now", unit)


def stop(unit: str) -> None:
    """Now, and not at boots. Nothing happens when it is not there."""
    listed = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        systemctl("disable", "--now", line.split()[0])
