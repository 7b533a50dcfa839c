"""Each thing that goes wrong is found, with what to do; a healthy cluster has no finding; a dump holds no secret."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.doctor import _logs, _write, without_secrets
from cluster.cli.doctor_judge import Facts, judge
from cluster.machine.config import ClusterConfig


def member(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "answers": True, "learner": False, "revision": 100, **changes}


def node(name: str, ready: str = "True", **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": "it is silent"}]
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"nodeName": "m1"}, "status": status}


HEALTHY = Facts(
    now=1000.0,
    agent=True,
    power={"m1": "running", "m2": "running", "m3": "running"},
    store={"leader": "m1", "revision": 100, "alarms": [], "members": [member("m1"), member("m2"), member("m3")]},
    control_planes=3,
    leaders={"kube-scheduler": "m2", "kube-controller-manager": "m3"},
    nodes=[node("m1"), node("m2"), node("m3")],
    pods=[pod(phase="Running", containerStatuses=[{"name": "c", "state": {"running": {}}, "restartCount": 0}])],
    certificates={"ca.crt": 1000.0 + 400 * 86400},
)


def container(**state: Any) -> dict[str, Any]:
    return {"name": "c", "restartCount": 4, **state}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(
        phase="Pending", containerStatuses=[container(state={"waiting": {"reason": reason, "message": message}})]
    )


LOST = {"metadata": {"name": "d", "namespace": "s"}, "status": {"phase": "Lost"}}
UNSCHEDULED = pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}])
OOM = pod(phase="Running", containerStatuses=[container(lastState={"terminated": {"reason": "OOMKilled"}}, state={})])
PRESSED = {**node("m3"), "status": {"conditions": [*node("m3")["status"]["conditions"],
                                                   {"type": "DiskPressure", "status": "True"}]}}  # fmt: skip


def test_a_healthy_cluster_has_no_finding() -> None:
    assert judge(HEALTHY) == []


@pytest.mark.parametrize(
    ("changes", "level", "message", "fix"),
    [
        ({"agent": False, "power": {}, "store": {}}, "error", "host agent does not answer", "sk8 up"),
        ({"power": {**HEALTHY.power, "m2": "off"}}, "error", "machine m2 is off", "sk8 machine start m2"),
        ({"store": {}}, "error", "no member of the store answers", "state"),
        ({"store": {**HEALTHY.store, "leader": ""}}, "error", "no leader", "machine list"),
        ({"store": {**HEALTHY.store, "alarms": ["NOSPACE"]}}, "error", "alarm NOSPACE", "store alarms"),
        ({"store": {**HEALTHY.store, "members": [member("m1"), member("m2"), member("m3", answers=False)]}},
         "error", "member on m3 is silent", "state-m3.log"),
        ({"store": {**HEALTHY.store, "members": [member("m1"), member("m2"), member("m3", learner=True)]}},
         "warning", "2 voters for 3", "member list"),
        ({"store": {**HEALTHY.store, "revision": 20_100}}, "warning", "20000 revisions behind", "slow"),
        ({"unanswered": ["/api/v1/nodes: refused"]}, "error", "API did not answer", "apiserver"),
        ({"certificates": {"x.crt": 1000.0 + 5 * 86400}}, "warning", "x.crt ends in 5 days", "renew"),
        ({"certificates": {"x.crt": 1000.0 - 2 * 86400}}, "error", "x.crt ended 2 days ago", "clock"),
        ({"leaders": {"kube-scheduler": "", "kube-controller-manager": "m3"}}, "error", "as kube-scheduler", "log"),
        ({"nodes": [node("m1"), node("m2")]}, "error", "m3 has no Node", "kubelet-m3.log"),
        ({"nodes": [node("m1"), node("m2"), node("m3", "Unknown")]}, "error", "m3 is not Ready: it is sil", "kubelet"),
        ({"nodes": [node("m1"), node("m2"), PRESSED]}, "warning", "m3 has DiskPressure", "describe node m3"),
        ({"nodes": [node("m1"), node("m2"), node("m3", unschedulable=True)]}, "warning", "cordoned", "uncordon m3"),
        ({"pods": [UNSCHEDULED]}, "warning", "shop/web has no node: 0/3 nodes", "explain"),
        ({"pods": [pod(phase="Failed", reason="Evicted")]}, "warning", "shop/web failed: Evicted", "describe"),
        ({"pods": [waiting("CrashLoopBackOff", "back-off 40s")]}, "warning", "back-off 40s", "--previous"),
        ({"pods": [waiting("ErrImagePull")]}, "warning", "ErrImagePull", "registry"),
        ({"pods": [OOM]}, "warning", "want of memory, 4 restarts", "memory limit"),
        ({"claims": [LOST]}, "error", "s/d is Lost", "pvc"),
        ({"disk_free_bytes": 1 << 30}, "error", "1024 MiB of disk", "space"),
        ({"memory_free_bytes": 100 << 20}, "warning", "100 MiB of memory", "limits"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_found(changes: dict[str, Any], level: str, message: str, fix: str) -> None:
    found = judge(replace(HEALTHY, **changes))
    assert [f for f in found if f.level == level and message in f.message and fix in f.fix], found


def test_errors_come_first() -> None:
    found = judge(replace(HEALTHY, pods=[UNSCHEDULED], power={**HEALTHY.power, "m2": "off"}))
    assert [finding.level for finding in found] == ["error", "warning"]


def test_a_container_that_waits_for_its_start_is_not_a_finding() -> None:
    assert judge(replace(HEALTHY, pods=[waiting("ContainerCreating")])) == []


def test_a_dump_has_no_values_of_the_environment() -> None:
    applied = json.dumps({"spec": "geheim"})
    secret = {
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied, "kept": "yes"}},
        "spec": {"volumes": [{"csi": {"driver": "d", "volumeAttributes": {"k": "geheim"}}}], "containers": [{
            "image": "x", "command": ["run", "--password=geheim"],
            "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "Authorization", "value": "geheim"}]}},
            "env": [{"name": "P", "value": "geheim"}, {"name": "Q", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
        }]},
    }  # fmt: skip
    said = json.dumps(without_secrets({"items": [secret]}))
    assert "geheim" not in said
    assert '"kept": "yes"' in said and '"image": "x"' in said and "secretKeyRef" in said


def test_a_dump_is_a_private_file_with_the_ends_of_the_logs_alone(tmp_path: Path) -> None:
    config = replace(ClusterConfig.local(1, 1), base_dir=str(tmp_path / "base"), run_dir=str(tmp_path / "run"))
    machine = config.machine("m1")
    machine.log_dir.mkdir(parents=True)
    (machine.log_dir / "state-m1.log").write_text("a" * (300 << 10) + "the end")
    machine.pki.mkdir(parents=True)
    (machine.pki / "sa.key").write_text("geheim")
    config.run.mkdir()
    target = tmp_path / "dump.tar.gz"
    _write(target, dict(_logs(config)))
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as bundle:
        assert bundle.getnames() == ["sk8-dump/logs/m1/state-m1.log"]
        file = bundle.extractfile(bundle.getnames()[0])
        assert file is not None
        data = file.read()
    assert len(data) == 256 << 10 and data.endswith(b"the end")
