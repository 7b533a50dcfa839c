"""The cluster's keys and configuration in one file, for the day when the machines' disks are gone. IO.

Without them a restored store cannot be read (Secrets are encrypted with `encryption.key`), and nobody holds a
certificate or token that the restored cluster accepts. Whoever has this file and a snapshot has everything: it is
written only when asked for, for root alone.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import orjson

from cluster.cli.output import CommandError
from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError
from cluster.machine.files import make_private_dir, write_atomic

FORMAT = 1
NAMES = ("ca.crt", "ca.key", "sa.key", "sa.pub", "encryption.key", "ray.token")


def save_keys(config: ClusterConfig, path: Path) -> None:
    """Raises CommandError."""
    try:
        keys = {name: base64.b64encode((config.pki / name).read_bytes()).decode() for name in NAMES}
    except FileNotFoundError as e:
        raise CommandError(
            f"the cluster's keys are not all here: {e.filename} is missing", "run it where sk8 up was run"
        ) from e
    document = {"format": FORMAT, "cluster": config.to_json().decode(), "pki": keys}
    write_atomic(path.absolute(), orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def load_keys(path: Path, base: Path) -> tuple[ClusterConfig, dict[str, bytes]]:
    """The configuration, moved to ``base``, and the keys by name. Raises CommandError."""
    try:
        document = orjson.loads(path.read_bytes())
        if document["format"] != FORMAT:
            fix = "use the sk8 that wrote it: sk8 snapshot save --keys"
            raise CommandError(f"{path} has format {document['format']}; this sk8 reads {FORMAT}", fix)
        config = ClusterConfig.from_json(document["cluster"].encode())
        keys = {name: base64.b64decode(document["pki"][name], validate=True) for name in NAMES}
        return replace(config, base_dir=str(base.absolute())).validate(), keys
    except FileNotFoundError as e:
        raise CommandError(f"{path} does not exist", "sk8 snapshot save --keys FILE writes such a file") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        why = (
            str(e) if isinstance(e, ConfigError) else f"it is damaged, or no `sk8 snapshot save --keys` made it ({e!r})"
        )
        raise CommandError(f"{path} cannot be used: {why}") from e


def install_keys(config: ClusterConfig, keys: dict[str, bytes]) -> None:
    make_private_dir(config.base)
    make_private_dir(config.pki)
    for name, key in keys.items():
        write_atomic(config.pki / name, key)
