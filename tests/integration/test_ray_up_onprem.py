"""`ray up infra/ray/onprem.yaml` for true: over SSH, to machines with systemd, from three nodes to none.

It takes minutes, so `make ray-up-test` runs it; what it needs of Ray and of joining is in the unit tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.vm_lab import CHECKOUT, Lab, Vm, eventually, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif("RAY_UP" not in os.environ, reason="takes minutes: make ray-up-test"),
]
RAY = Path(sys.executable).with_name("ray")
PATIENCE_S = 600


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Outside of /tmp: a machine has a /tmp of its own."""
    scratch = Path("/var/tmp/sk8v-test")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    made = Lab(scratch)
    try:
        for number in (1, 2, 3):
            made.add(f"v{number}", 10 + number)
        yield made
    finally:
        made.close()


def written(lab: Lab, path: Path, workers: list[str], planes: Sequence[str] = ()) -> Path:
    """The file as its user fills it in; `planes`: control planes beside the head, which is one."""
    config = yaml.safe_load((CHECKOUT / "infra/ray/onprem.yaml").read_text())
    config["cluster_name"] = f"test-{os.getpid()}"
    config["auth"]["ssh_private_key"] = str(lab.key)
    head = lab.vms["v1"].ip
    config["provider"]["machines"] |= {"head": [head], "control-plane": [*planes], "worker": workers}
    if planes:
        named = ",".join(f"cp{n}={ip}" for n, ip in enumerate((head, *planes), 1))
        init, *rest = config["head_start_ray_commands"]
        config["head_start_ray_commands"] = [f"{init} --control-planes {named}", *rest]
    path.write_text(yaml.safe_dump(config))
    return path


def ray(*arguments: str | Path, timeout_s: float = PATIENCE_S) -> str:
    done = subprocess.run(
        [str(RAY), *map(str, arguments)], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-2000:]}"
    return done.stdout


class Kubectl:
    def __init__(self, lab: Lab, file: Path, at: str = "v1") -> None:
        plane = lab.vms[at]
        file.write_text(lab.ssh(plane, f"sudo sk8 kubeconfig --server https://{plane.ip}:6443").stdout)
        self._file = file

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("kubectl", f"--kubeconfig={self._file}", *arguments, check=False)

    def ready(self) -> set[str]:
        """Nodes that are Ready; "?" while the API does not answer."""
        done = self("get", "nodes", "-o", "json")
        if done.returncode:
            return {"?"}
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        conditions = {i["metadata"]["name"]: i["status"].get("conditions", []) for i in items}
        return {n for n, cs in conditions.items() if any(c["type"] == "Ready" and c["status"] == "True" for c in cs)}


def test_from_three_machines_to_a_cluster_and_back(lab: Lab, tmp_path: Path) -> None:
    _, v2, v3 = lab.vms.values()
    config = written(lab, tmp_path / "onprem.yaml", [v2.ip, v3.ip])
    ray("up", config, "-y", "--no-config-cache")
    kubectl = Kubectl(lab, tmp_path / "kubeconfig")
    eventually(lambda: kubectl.ready() == {"cp1", "v2", "v3"}, PATIENCE_S, "three nodes are Ready")
    assert lab.ssh(v2, "test -e ~/sk8-join.json", check=False).returncode, "the secret does not stay on a worker"

    on_v2 = '--overrides={"spec":{"nodeName":"v2"}}'
    kubectl("run", "on-v2", "--image=sk8/pause:1", "--image-pull-policy=Never", on_v2)
    done = kubectl("wait", "--for=condition=Ready", "pod/on-v2", f"--timeout={PATIENCE_S}s")
    assert done.returncode == 0, done.stderr

    assert " 2 worker" in ray("exec", config, "ray status")
    script = tmp_path / "where.py"
    script.write_text("import ray; ray.init(); print('NODES', len(ray.nodes()))\n")
    assert "NODES 3" in ray("submit", config, script)

    written(lab, config, [v2.ip])
    ray("up", config, "-y", "--no-config-cache")
    eventually(lambda: kubectl.ready() == {"cp1", "v2"}, PATIENCE_S, "v3 is a node no more")
    assert nothing_left(lab, "v3")

    ray("down", config, "-y")
    for name in ("v1", "v2"):
        assert nothing_left(lab, name)


def test_three_control_planes_of_which_any_may_reboot(lab: Lab, tmp_path: Path) -> None:
    v1, v2, v3 = lab.vms.values()
    config = written(lab, tmp_path / "onprem.yaml", [], [v2.ip, v3.ip])
    ray("up", config, "-y", "--no-config-cache")
    eventually(lambda: healthy(lab, v1, "cp1", "cp2", "cp3"), PATIENCE_S, "three control planes are well")
    kubectl = Kubectl(lab, tmp_path / "kubeconfig", "v2")
    for number, vm in enumerate((v3, v1)):  # v1 is Ray's head
        lab.power_off(vm)
        eventually(lambda n=number: writes(kubectl, f"without-{n}"), PATIENCE_S, f"writes are taken without {vm.name}")
        lab.boot(vm)
        eventually(lambda: healthy(lab, v2, "cp1", "cp2", "cp3"), PATIENCE_S, f"{vm.name} is back by itself")
    kept = kubectl("get", "configmap", "without-0", "without-1")
    assert kept.returncode == 0, kept.stderr

    v4 = lab.add("v4", 14)
    written(lab, config, [v4.ip], [v2.ip, v3.ip])
    ray("up", config, "-y", "--no-config-cache")
    eventually(lambda: healthy(lab, v1, "cp1", "cp2", "cp3", "v4"), PATIENCE_S, "a worker that came later is Ready")
    ray("down", config, "-y")
    for name in lab.vms:
        assert nothing_left(lab, name)


def healthy(lab: Lab, at: Vm, *names: str) -> bool:
    """By `sk8 status` on a control plane: those machines and no others, and the members of the store."""
    done = lab.ssh(at, "sudo sk8 status -o json", check=False)
    if done.returncode not in (0, 3):
        return False
    seen = json.loads(done.stdout)
    return bool(seen["healthy"]) and sorted(row["name"] for row in seen["machines"]) == sorted(names)


def writes(kubectl: Kubectl, name: str) -> bool:
    done = kubectl("create", "configmap", name)
    return done.returncode == 0 or "AlreadyExists" in done.stderr


def nothing_left(lab: Lab, name: str) -> bool:
    """Of sk8 and Ray: files, units, processes, containers, links, tables."""
    looks = (
        "ls -d /opt/sk8 /var/lib/sk8 /run/sk8 /etc/systemd/system/sk8* /home/*/sk8* /home/*/ray_* /root/ray_*",
        'pgrep -af "raylet|gcs_server|cluster.machine" | grep -v pgrep',
        "docker ps -aq",
        'ip -br link | grep -E "sk8|veth"',
        "nft list tables | grep sk8",
    )
    found = lab.ssh(lab.vms[name], f"sudo sh -c '{'; '.join(looks)}' 2>/dev/null", check=False)
    assert found.stdout == ""
    return True
