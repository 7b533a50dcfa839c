"""Ray's autoscaler beside the head that `ray up` made: makes the machines that the configuration asks for.

    python -m actors.autoscaler --base /var/lib/sk8 --user admin      (the systemd unit sk8-autoscaler@admin)

IO. Everything it does is Ray's; this gives it what Ray's processes here have (token, TLS), and the home directory in
which `ray up` left its configuration and its SSH key. It runs apart from the raylet, so that neither ends the other.
Ray's first autoscaler is used: it tells nodes by their address, and needs nothing of Ray on them to do so.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from pathlib import Path

from cluster.machine import head
from cluster.machine.config import load_cluster
from cluster.machine.machine_config import load_machine, only_machine
from cluster.machine.ray_command import environment
from cluster.machine.release import checkout_dir

CONFIG = "ray_bootstrap_config.yaml"
KEY = "ray_bootstrap_key.pem"
LOGS = "/var/log/sk8"
PATIENCE_S = "600"
"""So long a machine may be silent (it reboots) before its start commands are run again, or it is replaced."""


def link_key(home: Path, own: Path) -> None:
    """ssh finds `~/` by the user database, not by HOME: it looks for the configuration's key in our home."""
    if (home / KEY).exists() and home != own:
        (own / KEY).unlink(missing_ok=True)
        (own / KEY).symlink_to(home / KEY)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m actors.autoscaler", description=__doc__)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--user", required=True, help="who `ray up` logs in as")
    args = parser.parse_args()
    machine = load_machine(args.base, only_machine(args.base))
    cluster = head.current(load_cluster(args.base), machine)
    home = Path(f"~{args.user}").expanduser()
    link_key(home, Path(pwd.getpwuid(os.geteuid()).pw_dir))
    python = Path(sys.executable)
    env = environment(cluster, machine, python, checkout_dir(), os.environ) | {
        "HOME": str(home),
        "AUTOSCALER_HEARTBEAT_TIMEOUT_S": PATIENCE_S,
    }
    command = [str(python), "-m", "ray.autoscaler._private.monitor", f"--gcs-address={cluster.gcs_address}"]
    command += [f"--autoscaling-config={home / CONFIG}", f"--logs-dir={LOGS}", "--logging-filename="]
    os.execve(python, command, env)


if __name__ == "__main__":
    sys.exit(main())
