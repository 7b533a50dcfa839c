"""infra/ray/*.yaml: Ray's own schema, Ray's own preparation, and what the machines are told to run exists here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config

from cluster.cli.main import parser

CHECKOUT = Path(__file__).resolve().parents[3]
FILES = sorted((CHECKOUT / "infra" / "ray").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def test_there_is_one_for_each_provider() -> None:
    assert [p.stem for p in FILES] == ["aws", "azure", "gcp", "onprem"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_ray_accepts_it(path: Path) -> None:
    config = load(path)
    jsonschema.validate(config, SCHEMA)
    prepared = prepare_config(config)
    assert prepared["head_node_type"] == "head"
    assert {"head", "worker"} <= set(prepared["available_node_types"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_misspelled_field_is_refused(path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(load(path) | {"max_worker": 3}, SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_it_carries_and_runs_is_here(path: Path) -> None:
    config = load(path)
    for remote, local in config["file_mounts"].items():
        assert (CHECKOUT / local).exists() and remote == f"~/sk8/{local}"
    for command in config["setup_commands"]:
        script = command.removeprefix("sudo ~/sk8/")
        assert (CHECKOUT / script).stat().st_mode & 0o111, script
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for command in starts:
        if found := re.match(r"sudo /opt/sk8/.venv/bin/sk8 (.*)", command, re.DOTALL):
            parser().parse_args(
                shlex.split(re.sub(r"\$\([^)]*\)", "x", found[1]))
            )  # exits with 2 when the command line is wrong
        else:
            # `enable --now` alone leaves one that runs with what an earlier `ray up` said
            unit = re.fullmatch(r"sudo systemctl enable (sk8-\w+@)(\S+ \S+) && sudo systemctl restart \1\2", command)
            assert unit and (CHECKOUT / "infra" / "systemd" / f"{unit[1]}.service").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_it_opens_nothing_to_the_whole_world(path: Path) -> None:
    assert "0.0.0.0/0" not in json.dumps(load(path))


def test_commands_on_the_path_are_ours_or_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("somebody's")
    (tmp_path / "ray").symlink_to("/nowhere/ray")

    def links(verb: str) -> str:
        script = CHECKOUT / "infra" / "ray" / "links.sh"
        done = subprocess.run([script, verb, tmp_path], capture_output=True, text=True, check=True)
        assert (tmp_path / "python").read_text() == "somebody's"
        assert (tmp_path / "ray").readlink() == Path("/nowhere/ray")
        return done.stdout

    for _ in range(2):
        said = links("add")
        assert f"{tmp_path}/python is not of sk8" in said and f"{tmp_path}/ray is not of sk8" in said
        assert (tmp_path / "sk8").readlink() == Path("/opt/sk8/infra/ray/bin/as-root")
    for _ in range(2):
        assert links("remove") == ""
        assert not (tmp_path / "sk8").is_symlink()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_control_planes_of_sk8_init_are_machines_of_the_file(path: Path) -> None:
    config = load(path)
    found = re.search(r"--control-planes (\S+)", config["head_start_ray_commands"][0])
    if not found:
        return
    wanted = [pair.partition("=")[2] for pair in found[1].split(",")]
    own = [kind["node_config"] for name, kind in config["available_node_types"].items() if name != "worker"]
    have = [n.get("PrivateIpAddress") or n["networkInterfaces"][0]["networkIP"] for n in own]
    assert wanted == have and len(wanted) % 2 == 1
