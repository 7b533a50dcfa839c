"""`python -m cluster.machine [--machine m1] --base /var/lib/sk8`: runs sk8-machine in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from cluster.machine import release
from cluster.machine.config import load_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.dns import dns_config
from cluster.machine.files import Locked
from cluster.machine.machine import Machine
from cluster.machine.machine_config import load_machine, only_machine
from cluster.network.dns_standby import DnsStandby


def main() -> int:
    parser = argparse.ArgumentParser(prog="sk8-machine", description=__doc__)
    parser.add_argument("--machine", default="", help="its name in the cluster's configuration (the only one there is)")
    parser.add_argument("--base", type=Path, default=Path("/var/lib/sk8"), help="the cluster's directory")
    parser.add_argument("--verbose", action="store_true", help="log more")
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        cluster, machine = load_cluster(args.base), load_machine(args.base, args.machine or only_machine(args.base))
        release.enter(machine)
        beside = [DnsStandby(dns_config(cluster, machine), same_boot=release.begun_again())]
        if asyncio.run(Machine(cluster, machine, beside=beside).run()):
            release.enter(machine, again=True)
    except (ConfigError, Locked, FileNotFoundError) as e:
        print(f"sk8-machine {args.machine}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
