"""A user's `kubelet:` settings: the names and values of KubeletConfiguration (kubelet.config.k8s.io/v1beta1).

Pure. Only what this kubelet acts on is taken; anything else is refused by name, so that no setting is silently without
effect. Durations are Go's (`1m30s`), amounts are quantities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.api.quantity import parse_quantity
from cluster.node.config import ConfigError, KubeletConfig

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def duration_s(value: Any) -> float:
    """`5m0s` -> 300.0; also a bare number of seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s or 1m30s")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    return tuple(_text(v) for v in value)


def _table(of: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not a mapping")
        return {_text(k): of(v) for k, v in value.items()}

    return parse


def _amount(value: Any) -> str:
    parse_quantity(value)
    return str(value)


def _by_priority(value: Any) -> tuple[tuple[int, float], ...]:
    """[{priority, shutdownGracePeriodSeconds}] as (priority, seconds), lowest priority first."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    pairs = [(_whole(v["priority"]), float(_whole(v["shutdownGracePeriodSeconds"]))) for v in value]
    return tuple(sorted(pairs))


_SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "allowedUnsafeSysctls": ("allowed_unsafe_sysctls", _texts),
    "cniBinDir": ("cni_bin_dir", _text),
    "cniConfDir": ("cni_conf_dir", _text),
    "containerRuntimeEndpoint": ("container_runtime_endpoint", _text),
    "containerLogMaxFiles": ("container_log_max_files", _whole),
    "containerLogMaxSize": ("container_log_max_size", _amount),
    "containerLogMonitorInterval": ("container_log_monitor_s", duration_s),
    "cgroupRoot": ("cgroup_root", _text),
    "cgroupsPerQOS": ("cgroups_per_qos", _flag),
    "enforceNodeAllocatable": ("enforce_node_allocatable", _texts),
    "evictionHard": ("eviction_hard", _table(_text)),
    "evictionMaxPodGracePeriod": ("eviction_max_pod_grace_period_s", _whole),
    "evictionMinimumReclaim": ("eviction_minimum_reclaim", _table(_text)),
    "evictionPressureTransitionPeriod": ("eviction_pressure_transition_period_s", duration_s),
    "evictionSoft": ("eviction_soft", _table(_text)),
    "evictionSoftGracePeriod": ("eviction_soft_grace_period_s", _table(duration_s)),
    "extendedResources": ("extended_resources", _table(_amount)),
    "fileCheckFrequency": ("file_check_frequency_s", duration_s),
    "imageGCHighThresholdPercent": ("image_gc_high_threshold_percent", _whole),
    "imageGCLowThresholdPercent": ("image_gc_low_threshold_percent", _whole),
    "imageMaximumGCAge": ("image_maximum_gc_age_s", duration_s),
    "imageMinimumGCAge": ("image_minimum_gc_age_s", duration_s),
    "kubeReserved": ("kube_reserved", _table(_amount)),
    "maxPods": ("max_pods", _whole),
    "nodeLabels": ("node_labels", _table(_text)),
    "nodeStatusReportFrequency": ("node_status_report_frequency_s", duration_s),
    "nodeStatusUpdateFrequency": ("node_status_update_frequency_s", duration_s),
    "podPidsLimit": ("pod_pids_limit", _whole),
    "registryMirrors": ("registry_mirrors", _table(_texts)),
    "shutdownGracePeriod": ("shutdown_grace_period_s", duration_s),
    "shutdownGracePeriodByPodPriority": ("shutdown_grace_period_by_pod_priority", _by_priority),
    "shutdownGracePeriodCriticalPods": ("shutdown_grace_period_critical_pods_s", duration_s),
    "staticPodPath": ("static_pod_path", _text),
    "systemReserved": ("system_reserved", _table(_amount)),
}
"""KubeletConfiguration's names; `nodeLabels`, `cniConfDir`, `cniBinDir`, `extendedResources` (as a device plugin would
announce) and `registryMirrors` (addresses to try first, by registry; `*` for all others) are ours."""


def with_settings(config: KubeletConfig, settings: Mapping[str, Any]) -> KubeletConfig:
    """`config` with a user's settings. Raises ConfigError naming the setting and what would be right."""
    return replace(config, **checked_settings(settings))


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of KubeletConfig by name. Raises ConfigError."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _SETTINGS:
            raise ConfigError(f"kubelet: unknown setting {key!r}; known are {', '.join(sorted(_SETTINGS))}")
        name, parse = _SETTINGS[key]
        try:
            out[name] = parse(value)
        except (ValueError, KeyError, TypeError) as err:
            raise ConfigError(f"kubelet: {key}: {err}") from err
    return out


def kubelet_configuration(config: KubeletConfig) -> dict[str, Any]:
    """The settings in force under KubeletConfiguration's names (GET /configz); times in seconds are durations."""
    out: dict[str, Any] = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}
    for key, (name, parse) in sorted(_SETTINGS.items()):
        value = getattr(config, name)
        if parse is duration_s:
            value = f"{value:g}s"
        out[key] = dict(value) if isinstance(value, Mapping) else value
    others = {"address": config.node_ip, "port": config.port, "healthzPort": config.healthz_port}
    return out | others | {"clusterDomain": config.cluster_domain, "clusterDNS": [config.cluster_dns]}
