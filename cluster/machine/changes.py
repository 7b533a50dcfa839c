"""Which settings a cluster that runs may change. Pure.

A setting is changeable when each part reads it at its own start, and parts that differ in it for a while harm nothing:
one machine has begun anew, the next has not yet. The others are decided when the cluster is made: addresses, names and
ports are in certificates, Nodes and Services; a profile's times must be the same for who is silent and who waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError

CHANGEABLE = (
    *("api_server", "controllers", "kubelet", "tracing", "scheduler_config_file"),
    *("enable_admission_plugins", "disable_admission_plugins", "admission_control_config_file"),
    *("quota_backend_bytes", "auto_compaction_mode", "auto_compaction_retention", "corrupt_check_time"),
    *("snapshot_url", "snapshot_interval", "snapshot_retention", "snapshot_endpoint", "snapshot_credentials"),
    *("cpu_millicores", "memory_bytes", "ephemeral_storage_bytes", "max_pods"),
    *("dns_upstreams", "ray_head_takeover_s", "kubelet_open_to_pods"),
)


def differing(config: ClusterConfig, settings: Mapping[str, Any]) -> list[str]:
    """The names of those, as `parse_settings` gives them, that `config` has with another value."""
    return [name for name, value in settings.items() if getattr(config, name) != value]


def changed(config: ClusterConfig, settings: Mapping[str, Any]) -> ClusterConfig:
    """`config` with these settings; those that are not named stay. Raises ConfigError."""
    new = {name: settings[name] for name in differing(config, settings)}
    fixed = [name for name in new if name not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: decided when a cluster is made; this one may change {', '.join(sorted(CHANGEABLE))}"
        )
    return replace(config, **new).validate()


def digest(config: ClusterConfig) -> str:
    """Of the changeable settings: a machine says by it which ones it began with. Those with their default do not count:
    another release may not know them yet."""
    settings = differences(ClusterConfig(config.machines), config)
    return hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()


def differences(before: ClusterConfig, after: ClusterConfig) -> dict[str, Any]:
    """What `after` says of each changeable setting in which they differ."""
    return {name: getattr(after, name) for name in CHANGEABLE if getattr(before, name) != getattr(after, name)}
