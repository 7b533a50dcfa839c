"""`sk8 down` when something does not go: all else does, and the last words say what stayed and what helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli.engine import PrivateEngine
from cluster.cli.main import main
from cluster.cloud import cleanup, mounts
from cluster.cloud.cleanup import Leftovers, Stayed
from cluster.cloud.engine import Engine
from cluster.machine.config import ClusterConfig, save_cluster

CONTAINER = "b" * 64


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    """A cluster that left nothing but files, on a box where nothing else is touched."""
    base, run, socket = (str(tmp_path / name) for name in ("sk8", "run", "engine.sock"))
    made = replace(ClusterConfig.local(), prefix="sk8u", base_dir=base, run_dir=run, engine_socket=socket)
    made.base.mkdir()
    save_cluster(made)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(cleanup, "find", lambda _: Leftovers())
    return made


def stays(monkeypatch: pytest.MonkeyPatch, stayed: Stayed) -> None:
    async def remove(config: ClusterConfig, engine: Engine | None) -> Stayed:
        return stayed

    monkeypatch.setattr(cleanup, "remove", remove)


def test_a_container_that_stays_is_named_once_all_else_is_gone(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stays(monkeypatch, Stayed({CONTAINER: "no answer within 20 s"}))
    assert main(["down", "--base", str(config.base)]) == 1
    told = capsys.readouterr().err
    assert "error: all is gone but container bbbbbbbbbbbb (no answer within 20 s)\n" in told
    assert f"restart the container engine at {config.engine_socket}, then: docker rm --force bbbbbbbbbbbb\n" in told
    assert not config.base.exists()


def test_with_its_own_engine_its_containers_are_gone(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def stop(*_: object, keep_data: bool) -> bool:
        return True

    stays(monkeypatch, Stayed({CONTAINER: "no answer within 20 s"}))
    monkeypatch.setattr(PrivateEngine, "stop", stop)
    assert main(["down", "--base", str(config.base)]) == 0
    assert "The cluster is down." in capsys.readouterr().err


def test_files_behind_a_mount_are_left_alone(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hostPath's files would go with the cluster's when its mount stays."""
    stays(monkeypatch, Stayed())
    below = config.base / "machines" / "m1" / "kubelet" / "volume"
    table = [mounts.Mount(2, 1, "8:1", "/", below, False, "ext4", "/dev/sda1")]
    monkeypatch.setattr(mounts, "mounts", lambda: table)
    assert main(["down", "--base", str(config.base)]) == 1
    assert f"all is gone but files in {config.base} ({below} is still mounted)" in capsys.readouterr().err
    assert (config.base / "cluster.json").exists()
