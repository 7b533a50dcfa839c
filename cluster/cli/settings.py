"""What a cluster may be made of: its settings file, and all that is checked before anything is made. IO (files)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.apiserver.config import ConfigError as ApiServerConfigError
from cluster.apiserver.config import checked_settings
from cluster.cli.output import CommandError
from cluster.controllers import config as controllers
from cluster.controllers import flags
from cluster.machine.config import ClusterConfig, parse_settings
from cluster.machine.config_json import ConfigError
from cluster.node.config import ConfigError as KubeletConfigError
from cluster.node.settings import checked_settings as checked_kubelet_settings
from cluster.registry import admissionconfig
from cluster.registry.admissionconfig import AdmissionConfigError


@contextmanager
def can_work() -> Iterator[None]:
    """What is wrong inside it, as CommandError."""
    try:
        yield
    except (ConfigError, AdmissionConfigError, ApiServerConfigError, KubeletConfigError) as e:
        lines = "".join(f"\n  {line}" for line in str(e).splitlines())
        raise CommandError(f"this cluster cannot work:{lines}") from e


def checked(config: ClusterConfig) -> ClusterConfig:
    """Itself; raises one of the errors that `can_work` tells."""
    config.validate()
    chosen = config.enable_admission_plugins, config.disable_admission_plugins
    admissionconfig.load(config.admission_control_config_file, *chosen).validate()
    checked_settings(config.api_server)
    checked_kubelet_settings(config.kubelet)
    _check_scheduler(config.scheduler_config_file)
    _check_controllers(config)
    return config


def _check_scheduler(path: str) -> None:
    """Raises ConfigError. Its imports are not small, and most clusters have no such file."""
    if path:
        from cluster.scheduler import configfile

        try:
            configfile.load(path, "check")
        except configfile.SchedulerConfigError as e:
            raise ConfigError(f"scheduler_config_file: {e}") from e


def _check_controllers(config: ClusterConfig) -> None:
    """Raises ConfigError."""
    try:
        flags.with_flags(controllers.profile(config.profile), config.controllers)
    except ValueError as e:
        raise ConfigError(str(e)) from e


def capacity(machines: int) -> dict[str, Any]:
    """Each machine offers all processors, as they are shared, and its part of memory and disk, which are not."""
    return {
        "cpu_millicores": 1000 * (os.cpu_count() or 1),
        "memory_bytes": psutil.virtual_memory().total // max(machines, 1),
        "ephemeral_storage_bytes": psutil.disk_usage("/").total // max(machines, 1),
    }


def read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as e:
        raise CommandError(f"cannot read {path}: {e}", "one setting a line, in YAML: docs/configuration.md") from e
    if not isinstance(raw, dict):
        raise CommandError(f"{path} must be a mapping of settings", "such as `profile: kubernetes`")
    return parse_settings(raw)
