"""A user's settings of the controllers, spelled as kube-controller-manager's flags: `node-monitor-grace-period: 40s`.

Pure. A flag is the name of a `ControllerConfig` field with dashes and without its unit; a duration is Go's ("1m30s") or
a number of seconds. `pod-eviction-timeout` is the flag of Kubernetes before 1.27.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from cluster.api import goduration
from cluster.controllers.config import ControllerConfig

_OF_THE_CLUSTER = frozenset(
    {
        *("cluster_cidr", "cluster_cidr_ipv6", "node_cidr_mask_size", "node_cidr_mask_size_ipv6"),
        *("service_cluster_ip_range", "root_ca_file"),
    }
)
"""Decided by the cluster's own settings."""
_FIELDS = {
    f.name.removesuffix("_s").replace("_", "-"): f for f in fields(ControllerConfig) if f.name not in _OF_THE_CLUSTER
}


def with_flags(config: ControllerConfig, settings: Mapping[str, Any]) -> ControllerConfig:
    """`config` as the settings want it. Raises ValueError that names the setting and what would be right."""
    found = dict(_checked(key, value) for key, value in settings.items())
    changed = replace(config, **found)
    changed.validate()
    return changed


def _checked(key: str, value: Any) -> tuple[str, Any]:
    flag = key.replace("_", "-")
    if flag not in _FIELDS:
        raise ValueError(f"controllers: unknown setting {key!r}; known are {', '.join(sorted(_FIELDS))}")
    field = _FIELDS[flag]
    wanted = str(field.type).removesuffix(" | None")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.name.endswith("_s") and isinstance(value, str):
        try:
            value, number = goduration.parse(value), True
        except goduration.BadDuration as err:
            raise ValueError(f"controllers: {key}: {err}; a duration such as 40s or 5m is needed") from err
    if wanted == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    right = {"int": isinstance(value, int) and number, "float": number, "str": isinstance(value, str)}
    if not right[wanted] or (number and value < 0):
        raise ValueError(f"controllers: {key}: {value!r} is not a {'duration' if number else wanted} of 0 or more")
    return field.name, value
