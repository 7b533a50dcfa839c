"""The store's settings of a cluster, checked and in units. Pure.

Names and meanings are those of etcd's flags: `auto-compaction-mode` (periodic, revision), `auto-compaction-retention`
(a duration, or a bare number of hours; a number of revisions), `quota-backend-bytes`, `corrupt-check-time`.
The snapshot settings say how often the store is saved, where to, and for how long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from cluster.api.duration import parse_duration

MIB = 1 << 20
MAX_QUOTA_BYTES = 64 << 30


class Settings(Protocol):
    """What of ClusterConfig is used here; a settings file may give a number for any of the texts."""

    @property
    def base_dir(self) -> str: ...
    @property
    def quota_backend_bytes(self) -> int: ...
    @property
    def auto_compaction_mode(self) -> str: ...
    @property
    def auto_compaction_retention(self) -> str: ...
    @property
    def corrupt_check_time(self) -> str: ...
    @property
    def snapshot_url(self) -> str: ...
    @property
    def snapshot_interval(self) -> str: ...
    @property
    def snapshot_retention(self) -> str: ...


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Of the retentions, one is 0: history is kept by time or by number. 0 turns a thing off."""

    quota_backend_bytes: int
    auto_compaction_retention_s: float
    auto_compaction_revisions: int
    corrupt_check_s: float
    snapshot_url: str
    snapshot_interval_s: float
    snapshot_retention_s: float


def of(config: Settings) -> StoreSettings:
    """Raises ValueError where ``problems`` names a reason."""
    retention_s, revisions = _retention(config)
    return StoreSettings(
        quota_backend_bytes=config.quota_backend_bytes,
        auto_compaction_retention_s=retention_s,
        auto_compaction_revisions=revisions,
        corrupt_check_s=parse_duration(str(config.corrupt_check_time)),
        snapshot_url=config.snapshot_url or f"{config.base_dir}/snapshots",
        snapshot_interval_s=parse_duration(str(config.snapshot_interval)),
        snapshot_retention_s=parse_duration(str(config.snapshot_retention)),
    )


def _retention(config: Settings) -> tuple[float, int]:
    text = str(config.auto_compaction_retention)
    if config.auto_compaction_mode == "revision":
        if not text.isdecimal():
            raise ValueError(f"{text!r}: must be a number of revisions such as 1000 (auto_compaction_mode is revision)")
        return 0.0, int(text)
    return (float(text) * 3600 if text.isdecimal() else parse_duration(text)), 0


def problems(config: Settings) -> Iterator[str]:
    """Every reason why the settings cannot work."""
    quota = config.quota_backend_bytes
    if not isinstance(quota, int) or not MIB <= quota <= MAX_QUOTA_BYTES:
        yield f"quota_backend_bytes: {quota}: must be from {MIB} (1 MiB) to {MAX_QUOTA_BYTES} (64 GiB), as a number"
    if config.auto_compaction_mode not in ("periodic", "revision"):
        yield f"auto_compaction_mode: {config.auto_compaction_mode!r}: must be periodic or revision"
    try:
        _retention(config)
    except ValueError as e:
        yield f"auto_compaction_retention: {e}"
    for name in ("corrupt_check_time", "snapshot_interval", "snapshot_retention"):
        try:
            seconds = parse_duration(str(getattr(config, name)))
        except ValueError as e:
            yield f"{name}: {e}"
            continue
        if name == "snapshot_interval" and 0 < seconds < 60:
            yield f"snapshot_interval: {seconds:g} s: must be at least 1m; 0 turns scheduled snapshots off"
        if name == "corrupt_check_time" and 0 < seconds < 1:
            yield f"corrupt_check_time: {seconds:g} s: must be at least 1s; 0 turns the check off"
    url = urlsplit(config.snapshot_url)
    fits = bool(url.netloc) if url.scheme in ("s3", "gs") else url.scheme in ("", "file") and url.path.startswith("/")
    if config.snapshot_url and not fits:
        yield (
            f"snapshot_url: {config.snapshot_url!r}: must be an absolute path, s3://bucket/prefix or gs://bucket/prefix"
        )
