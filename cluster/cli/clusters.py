"""The cluster a command is about. IO (its configuration's file)."""

from __future__ import annotations

from pathlib import Path

from cluster.cli.output import CommandError
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machinery.http_client import HttpConfig


def existing(base: Path) -> ClusterConfig:
    """Raises CommandError when there is none in `base`, ConfigError when its file cannot be read."""
    try:
        return load_cluster(base)
    except FileNotFoundError as e:
        raise CommandError(f"there is no cluster in {base}", "sk8 up makes one") from e


def admin_http(config: ClusterConfig) -> HttpConfig:
    """The API as its administrator, from this box."""
    ca, cert, key = (str(config.pki / name) for name in ("ca.crt", "admin.crt", "admin.key"))
    return HttpConfig(server=f"https://127.0.0.1:{config.api_port}", ca_file=ca, cert_file=cert, key_file=key)
