"""The store's settings: etcd's flags by name and meaning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.machine import store_settings
from cluster.machine.config import ClusterConfig, parse_settings
from cluster.machine.config_json import ConfigError

CONFIG = ClusterConfig.local()


def test_defaults() -> None:
    settings = store_settings.of(CONFIG.validate())
    assert (settings.quota_backend_bytes, settings.auto_compaction_retention_s) == (2 << 30, 300)
    assert (settings.snapshot_interval_s, settings.snapshot_retention_s) == (6 * 3600, 30 * 86400)
    assert settings.snapshot_url == "/var/lib/sk8/snapshots"


@pytest.mark.parametrize(
    ("mode", "retention", "seconds", "revisions"),
    [
        ("periodic", "8h", 28800, 0),
        ("periodic", 8, 28800, 0),  # a bare number is hours, as etcd takes it
        ("periodic", "0", 0, 0),
        ("revision", "1000", 0, 1000),
        ("revision", 1000, 0, 1000),
    ],
)
def test_compaction_by_time_or_revisions(mode: str, retention: object, seconds: float, revisions: int) -> None:
    raw = {"auto-compaction-mode": mode, "auto-compaction-retention": retention, "quota-backend-bytes": 8 << 30}
    config = ClusterConfig.local(**parse_settings(raw)).validate()
    settings = store_settings.of(ClusterConfig.from_json(config.to_json()))
    assert (settings.auto_compaction_retention_s, settings.auto_compaction_revisions) == (seconds, revisions)
    assert settings.quota_backend_bytes == 8 << 30


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("auto_compaction_mode", "hourly", "must be periodic or revision"),
        ("auto_compaction_retention", "soon", "must be a duration such as"),
        ("quota_backend_bytes", 1000, "quota_backend_bytes: 1000: must be from 1048576"),
        ("quota_backend_bytes", "8G", "quota_backend_bytes: 8G: must be"),
        ("snapshot_interval", "6", "snapshot_interval: '6': must be a duration"),
        ("snapshot_interval", "5s", "must be at least 1m"),
        ("corrupt_check_time", "1ms", "must be at least 1s"),
        ("snapshot_url", "backups", "snapshot_url: 'backups': must be an absolute path, s3://"),
        ("snapshot_url", "s3://", "snapshot_url: 's3://': must be"),
    ],
)
def test_what_is_wrong(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **{name: value}).validate()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a number of revisions"):
        replace(CONFIG, auto_compaction_mode="revision").validate()
