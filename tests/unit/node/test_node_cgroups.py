"""The pods' control groups: the hierarchy and the values are the kubelet's, on both versions of cgroups."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.node.cgroup_plan import SANDBOX_BYTES, Limits, files_v1, files_v2, pod_group, pod_path, tier_groups
from cluster.node.pod_cgroups import PodCgroups

MI = 1 << 20


def pod(uid: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    listed = [{"name": f"c{i}", "resources": resources} for i, resources in enumerate(containers)]
    return {"metadata": {"uid": uid, "name": uid, "namespace": "d"}, "spec": {"containers": listed, **spec}}


FULL = {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "500m", "memory": "64Mi"}}
SOME = {"requests": {"cpu": "250m"}}


def test_where_a_pod_is_says_its_quality_of_service() -> None:
    assert pod_path("/kubepods", pod("g", FULL)) == "/kubepods/podg"
    assert pod_path("/m1/kubepods", pod("b", FULL, SOME)) == "/m1/kubepods/burstable/podb"
    assert pod_path("/kubepods", pod("e", {})) == "/kubepods/besteffort/pode"


def test_a_pod_is_limited_only_when_all_of_its_containers_are() -> None:
    assert pod_group(pod("g", FULL, FULL), 100) == Limits(1024, 100_000, 128 * MI + SANDBOX_BYTES, 100)
    assert pod_group(pod("b", FULL, SOME), -1) == Limits(768, -1, -1, -1)
    assert pod_group(pod("e", {}), -1) == Limits(2, -1, -1, -1)


def test_limits_of_the_pod_itself_count_for_all_of_its_containers() -> None:
    limited = pod("p", SOME, resources={"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}})
    assert pod_group(limited, -1) == Limits(1024, -1, 1024 * MI + SANDBOX_BYTES, -1)


def test_the_tiers_share_by_what_their_pods_request() -> None:
    tiers = tier_groups([pod("a", SOME), pod("b", SOME), pod("g", FULL), pod("e", {})])
    assert tiers == {"burstable": Limits(cpu_shares=512), "besteffort": Limits(cpu_shares=2)}


def test_values_in_the_words_of_both_versions() -> None:
    limits = Limits(1024, 50_000, 64 * MI, -1)
    assert files_v1(limits) == [
        ("cpu", "cpu.shares", "1024"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("memory", "memory.limit_in_bytes", str(64 * MI)),
        ("pids", "pids.max", "max"),
    ]
    assert files_v2(limits) == [
        ("cpu.weight", "39"),
        ("cpu.max", "50000 100000"),
        ("memory.max", str(64 * MI)),
        ("pids.max", "max"),
    ]
    assert files_v2(Limits(cpu_quota_us=-1, memory_bytes=-1)) == [("cpu.max", "max 100000"), ("memory.max", "max")]


class Kernel:
    """A tree of plain files that stands for /sys/fs/cgroup."""

    def __init__(self, base: Path, unified: bool) -> None:
        self.base = base
        if unified:
            (base / "cgroup.controllers").write_text("cpu memory pids")
            (base / "cgroup.subtree_control").write_text("")
        else:
            for name in ("cpu", "memory", "pids", "freezer"):
                (base / name).mkdir()

    def clear_files(self) -> None:
        """As the kernel has it: a group's files go with it."""
        for path in self.base.glob("**/*"):
            if path.is_file() and path.parent != self.base:
                path.unlink()


def test_version_1_makes_each_controllers_groups_and_removes_the_engines_too(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, unified=False)
    groups = PodCgroups("/m1/kubepods", max_pids=64, base=tmp_path)
    groups.start(Limits(2048, None, 512 * MI, None))
    guest = pod("b", SOME)
    groups.apply(guest)
    (tmp_path / "freezer" / groups.path(guest).strip("/") / "container").mkdir(parents=True)
    assert (tmp_path / "memory/m1/kubepods/memory.limit_in_bytes").read_text() == str(512 * MI)
    assert (tmp_path / "cpu/m1/cpu.shares").read_text() == "2048"
    assert (tmp_path / "cpu/m1/kubepods/burstable/cpu.shares").read_text() == "256"
    assert (tmp_path / "pids/m1/kubepods/burstable/podb/pids.max").read_text() == "64"
    assert groups.known() == ["b"]
    kernel.clear_files()
    groups.remove("b")
    assert groups.known() == []
    assert not list(tmp_path.glob("**/podb"))
    assert (tmp_path / "cpu/m1/kubepods/burstable/cpu.shares").read_text() == "2"


def test_version_2_passes_the_controllers_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(tmp_path, unified=True)
    made = Path.mkdir

    def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        (self / "cgroup.subtree_control").write_text("")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    groups = PodCgroups("/kubepods", base=tmp_path)
    groups.start(Limits(2048, None, 512 * MI, None))
    groups.apply(pod("g", FULL))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "kubepods/podg/cpu.max").read_text() == "50000 100000"
    assert (tmp_path / "kubepods/memory.max").read_text() == str(512 * MI)


def test_tiers_that_somebody_removed_are_made_again(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, unified=False)
    groups = PodCgroups("/m1/kubepods", base=tmp_path)
    groups.start(Limits(2048))
    groups.apply(pod("e", {}))
    shutil.rmtree(tmp_path / "cpu" / "m1")
    kernel.clear_files()
    groups.remove("e")
    assert (tmp_path / "cpu/m1/kubepods/besteffort/cpu.shares").read_text() == "2"


def test_without_a_root_nothing_is_made(tmp_path: Path) -> None:
    Kernel(tmp_path, unified=False)
    groups = PodCgroups("", base=tmp_path)
    groups.start(Limits(2))
    groups.apply(pod("a", FULL))
    assert groups.path(pod("a", FULL)) == "" and groups.known() == []
    assert not list(tmp_path.glob("*/*"))
