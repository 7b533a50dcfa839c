"""A user's settings of the API server, and the keys that Secrets are encrypted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.wiring.apiserver import config_of
from actors.wiring.common import encryption_keys
from cluster.apiserver.config import ApiServerConfig, ConfigError
from cluster.machine.config import ClusterConfig


def test_settings_reach_the_server() -> None:
    settings = {"max-requests-inflight": 7, "oidc_signing_algs": ["ES256"], "request_timeout_s": 5}
    cluster = ClusterConfig.local(1, 1, api_server=settings)
    config = config_of(cluster, cluster.machine("m1"))
    assert (config.max_requests_inflight, config.oidc_signing_algs) == (7, ("ES256",))
    assert config.bind_address == "10.89.0.11"


@pytest.mark.parametrize(
    "settings",
    [{"tls_cert_file": "/x"}, {"nope": 1}, {"max_requests_inflight": "many"}, {"max_requests_inflight": True}],
)
def test_settings_that_are_refused(settings: dict[str, object]) -> None:
    cluster = ClusterConfig.local(1, 1, api_server=settings)
    with pytest.raises(ConfigError, match="api_server"):
        config_of(cluster, cluster.machine("m1"))


def test_the_primary_key_comes_first(tmp_path: Path) -> None:
    (tmp_path / "encryption.key").write_bytes(b"a" * 32)
    assert list(encryption_keys(tmp_path)) == ["key1"]
    (tmp_path / "encryption-2026.key").write_bytes(b"b" * 32)
    assert list(encryption_keys(tmp_path)) == ["key1", "2026"]
    (tmp_path / "encryption.primary").write_text("2026\n")
    assert list(encryption_keys(tmp_path)) == ["2026", "key1"]
    (tmp_path / "encryption.primary").write_text("2027\n")
    with pytest.raises(ValueError, match="2027"):
        encryption_keys(tmp_path)


@pytest.mark.parametrize("size", ["pods", "#5", "pods#many", "pods#-1"])
def test_a_window_is_a_resource_and_a_number(size: str) -> None:
    with pytest.raises(ConfigError, match="watch_cache_sizes"):
        _ = ApiServerConfig("", "", "", "", (), watch_cache_sizes=(size,)).watch_windows
