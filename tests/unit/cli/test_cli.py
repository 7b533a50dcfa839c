"""The command line: preflight judgements, exit codes, and what newcomers read when something is wrong."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Coroutine
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import up as up_module
from cluster.cli.main import main
from cluster.cli.output import CommandError, Output, table
from cluster.cli.preflight import Facts, judge
from cluster.cli.up import UpOptions
from cluster.cloud import cleanup
from cluster.machine.config import ClusterConfig, save_cluster

CONFIG = ClusterConfig.local()
GOOD = Facts("linux", True, (), "", 50 << 30, 8 << 30, ("10.0.0.0/24",), True)


def test_a_good_box_has_no_findings() -> None:
    assert judge(GOOD, CONFIG) == []


@pytest.mark.parametrize(
    ("change", "level", "message", "fix"),
    [
        ({"platform": "darwin"}, "error", "need Linux, and this is darwin", "Debian 12"),
        ({"root": False}, "error", "need root", "sudo"),
        ({"missing": ("nft", "ray")}, "error", "programs are missing: nft, ray", "bootstrap.sh"),
        ({"missing": ("kubectl",)}, "warning", "kubectl is not installed", "does not need it"),
        ({"kubectl_minor": 30}, "warning", "kubectl here is 1.30: it works, but lacks the commands", "1.31 or newer"),
        ({"engine": False}, "error", "no container engine answers", "bootstrap.sh"),
        ({"forbidden": ("CAP_NET_ADMIN",)}, "error", "root lacks CAP_NET_ADMIN here", "--privileged"),
        ({"namespaces": False}, "error", "no PID namespaces", "CONFIG_PID_NS"),
        ({"loop": False}, "error", "no loop devices", "modprobe loop"),
        ({"port_owner": "kubelet (process 7)"}, "error", "6443 is taken by kubelet (process 7)", "api_port"),
        ({"disk_free_bytes": 1 << 30}, "error", "has 1.0 GiB of free space; 2 GiB are needed", "--base"),
        ({"memory_free_bytes": 1 << 30}, "warning", "only 1024 MiB of memory are free", ""),
        ({"routes": ("10.89.0.0/16",)}, "error", "10.89.0.0/24 is in use here (10.89.0.0/16)", "node_cidr"),
    ],
)
def test_what_is_wrong_and_what_to_do(change: dict[str, object], level: str, message: str, fix: str) -> None:
    (finding,) = judge(replace(GOOD, **change), CONFIG)  # type: ignore[arg-type]
    assert finding.level == level and message in finding.message and fix in finding.fix


def test_an_impossible_cluster_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--control-planes", "2", "--base", str(tmp_path / "sk8")]) == 1
    assert "2 is even" in capsys.readouterr().err
    assert not (tmp_path / "sk8").exists()


def test_every_setting_of_the_file_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    given = {"machines", "cluster_id", "base_dir", "ensure_command", "provider"}  # by sk8 up and sk8 init themselves
    missing = [f.name for f in fields(ClusterConfig) if f.name not in given and f"`{f.name}`" not in page]
    assert missing == [], "a line each in docs/configuration.md"


def test_settings_files_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("colour: red\n")
    assert main(["up", "--config", str(settings), "--base", str(tmp_path / "sk8")]) == 1
    assert "unknown setting colour" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["machine", "list"], ["status"], ["kubeconfig"], ["link", "down", "m1"]])
def test_without_a_cluster(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--base", str(tmp_path / "none")]) == 1
    assert "there is no cluster" in capsys.readouterr().err


def test_a_cluster_that_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"), api_port=1)
    config.base.mkdir()
    save_cluster(config)
    assert main(["status", "--base", config.base_dir, "-o", "json"]) == 3
    document = json.loads(capsys.readouterr().out)
    store = {"leader": "", "revision": 0, "alarms": [], "members": []}
    expected = {"healthy": False, "api": False, "machines": [], "leaders": {}, "store": store}
    assert document == expected | {"host_agent": False, "unwatched": [], "pods_waiting": 0}
    assert main(["machine", "kill", "m9", "--base", config.base_dir]) == 1
    assert "no machine 'm9': this cluster has m1, m2, m3" in capsys.readouterr().err


async def test_a_cluster_keeps_its_shape(tmp_path: Path) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"))
    config.base.mkdir()
    save_cluster(config)
    with pytest.raises(CommandError, match="has 3 machines, not 5"):
        await up_module.up(UpOptions(5, None, None, config.base), Output(quiet=True), {})


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["machine", "explode", "m1"])
    assert e.value.code == 2
    assert main(["version"]) == 0
    assert "sk8 " in capsys.readouterr().out


def test_tables_and_progress_without_a_terminal() -> None:
    assert table(("name", "state"), [("m1", "running")]) == "NAME   STATE\nm1     running"
    err = io.StringIO()
    with Output(err=err).step("machines booted") as step:
        step.update("m1")
    assert err.getvalue().startswith("  ✓ machines booted: m1  ") and "\033" not in err.getvalue()


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_directory_of_somebody_else_is_left_alone(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    home.chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("cluster.cli.agent.process", lambda _: None)  # a cluster may run on this box
    assert main([command, "--base", str(home)]) == 1
    assert "letters in it is not sk8's" in capsys.readouterr().err
    assert (home / "letters").is_dir() and home.stat().st_mode & 0o777 == 0o755


def test_down_does_not_take_the_cluster_that_runs_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("cluster.cli.agent.serves", lambda _: Path("/srv/sk8"))
    assert main(["down", "--base", str(tmp_path / "typo")]) == 1
    assert "try: sk8 down --base /srv/sk8" in capsys.readouterr().err


def test_of_a_clusters_directory_only_what_sk8_made_goes(tmp_path: Path) -> None:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"))
    for name in ("pki", "disks", "machines/m1/state"):
        (config.base / name).mkdir(parents=True)
    save_cluster(config)
    (config.base / "notes.txt").write_text("mine")
    cleanup.remove_files(config, keep_data=True)
    assert (config.base / "machines/m1/state").is_dir()
    cleanup.remove_files(config, keep_data=False)
    assert [p.name for p in config.base.iterdir()] == ["notes.txt"]
    (config.base / "notes.txt").unlink()
    cleanup.remove_files(config, keep_data=False)
    assert not config.base.exists()


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        (["up"], "sk8 up goes on where it was; sk8 down removes what there is"),
        (["down"], "sk8 down goes on where it was"),
        (["configure", "f.yaml"], "the same command goes on where it was"),
        (["upgrade", "--rollback"], "the same command goes on where it was"),
        (["machine", "add"], "sk8 machine list shows whether it was made"),
        (["machine", "remove", "m4"], "the same command goes on where it was"),
        (["machine", "kill", "m4"], "sk8 status shows how the machines are"),
    ],
)
def test_an_interrupted_command_says_what_goes_on_with_it(
    command: list[str], fix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: of every command, that sk8 down removes what there is."""

    def interrupted(work: Coroutine[Any, Any, int]) -> int:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    assert main(command) == 1
    assert capsys.readouterr().err == f"error: interrupted\n  try: {fix}\n"
