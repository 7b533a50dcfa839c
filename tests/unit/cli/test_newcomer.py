"""What a newcomer reads when `sk8 up` cannot work: the reason, what to do, and nothing made."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import preflight
from cluster.cli import up as up_module
from cluster.cli.engine import PrivateEngine
from cluster.cli.main import main
from cluster.cli.output import CommandError, Output
from cluster.cli.preflight import Facts
from cluster.cloud.cleanup import Leftovers, Stayed
from cluster.cloud.engine import Engine
from cluster.machine.config import ClusterConfig

GOOD = Facts("linux", True, (), "", 50 << 30, 8 << 30, (), True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"root": False}, ["error: local machines need root", "try: run it as root (sudo)"]),
        ({"platform": "darwin"}, ["error: local machines need Linux, and this is darwin", "try: use a Linux machine"]),
        (
            {"port_owner": "k3s (process 7)"},
            ["error: port 127.0.0.1:6443 is taken by k3s (process 7)", "try: stop it, or choose another port"],
        ),
        ({"disk_free_bytes": 1 << 30}, ["of free space; 2 GiB are needed", "try: free some"]),
        (
            {"elsewhere": "/srv/sk8", "port_owner": "python (process 8)"},
            ["error: a cluster runs here already, from /srv/sk8", "try: sk8 down --base /srv/sk8"],
        ),
        ({"missing": ("ray", "nft")}, ["error: programs are missing: ray, nft", "try: run infra/bootstrap.sh"]),
        (
            {"missing": ("kubectl",), "root": True, "namespaces": False},
            ["! kubectl is not installed.", "infra/bootstrap.sh", "error: this kernel has no PID namespaces"],
        ),
    ],
)
def test_up_says_what_is_wrong_and_makes_nothing(
    change: dict[str, object],
    says: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("it went on")

    monkeypatch.setattr(preflight, "gather", lambda _: replace(GOOD, **change))  # type: ignore[arg-type]
    monkeypatch.setattr(up_module.agent, "process", lambda _: None)  # a cluster may run on this box
    monkeypatch.setattr(up_module, "_clear_remains", never)
    assert main(["up", "--base", str(tmp_path / "sk8")]) == 1
    err = capsys.readouterr().err
    assert all(text in err for text in says), err
    assert "Traceback" not in err
    assert not (tmp_path / "sk8").exists()


async def test_what_a_crash_left_is_cleared_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ClusterConfig.local(), base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"))
    cleared: list[ClusterConfig] = []  # the box itself is neither looked at nor touched

    async def remove(config: ClusterConfig, _: Engine | None) -> Stayed:
        cleared.append(config)
        return Stayed()

    monkeypatch.setattr(up_module.cleanup, "find", lambda _: Leftovers(namespaces=["sk8-m1"], mounts=["/a", "/b"]))
    monkeypatch.setattr(up_module.cleanup, "remove", remove)
    err = io.StringIO()
    await up_module._clear_remains(config, Output(err=err))
    assert "cleared the remains of an earlier run (1 network namespaces, 2 mounts)" in err.getvalue()
    assert cleared == [config]


def test_a_damaged_cluster_names_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.json").write_text('{"half')
    assert main(["up", "--base", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert f"the cluster in {tmp_path} cannot be used" in err and "try: sk8 down removes it" in err


async def test_no_engine_and_none_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = str(tmp_path / "engine.sock")
    config = replace(ClusterConfig.local(), run_dir=str(tmp_path / "run"), engine_socket=socket)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="dockerd is not installed") as caught:
        await PrivateEngine(config).start()
    assert "infra/bootstrap.sh" in caught.value.fix


async def test_an_engine_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = str(tmp_path / "engine.sock")
    base, run = str(tmp_path / "sk8"), str(tmp_path / "run")
    config = replace(ClusterConfig.local(), base_dir=base, run_dir=run, engine_socket=socket)
    dockerd = tmp_path / "dockerd"
    dockerd.write_text("#!/bin/sh\necho 'failed to start daemon: devices cgroup is not mounted'\nexit 1\n")
    dockerd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CommandError, match="dockerd did not start: failed to start daemon: devices cgroup") as caught:
        await PrivateEngine(config).start()
    assert "engine.log" in caught.value.fix


async def test_an_engine_of_ours_goes_with_its_data_also_without_its_record(tmp_path: Path) -> None:
    """Regression: after a reboot, or after --keep-data, `sk8 down` left the engine's data for good."""
    base, run = str(tmp_path / "sk8"), str(tmp_path / "run")
    config = replace(ClusterConfig.local(), base_dir=base, run_dir=run, engine_socket=str(tmp_path / "none"))
    data = tmp_path / "sk8-engine"
    assert not await PrivateEngine(config).stop(keep_data=False)
    data.mkdir()
    assert not await PrivateEngine(config).stop(keep_data=True) and data.exists()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"--data-root={data}"]) as engine:
        assert await PrivateEngine(config).stop(keep_data=True) and data.exists()
        assert engine.wait(5) != 0
    assert not await PrivateEngine(config).stop(keep_data=False) and not data.exists()


def test_what_to_try_next_can_be_typed_as_it_stands() -> None:
    lines = up_module.what_next(".venv/bin/sk8").splitlines()
    assert "  .venv/bin/sk8 status" in lines
    assert "  .venv/bin/sk8 machine kill m2  # a power failure; .venv/bin/sk8 machine start m2 brings it back" in lines
