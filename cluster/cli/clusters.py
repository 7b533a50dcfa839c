"""The cluster a command is about. IO (its configuration's file)."""

from __future__ import annotations

from pathlib import Path

from cluster.cli.output import CommandError
from cluster.machine.config import ClusterConfig, load_cluster


def existing(base: Path) -> ClusterConfig:
    """Raises CommandError when there is none in `base`, ConfigError when its file cannot be read."""
    try:
        return load_cluster(base)
    except FileNotFoundError as e:
        raise CommandError(f"there is no cluster in {base}", "sk8 up makes one") from e
