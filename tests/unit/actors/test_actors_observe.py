"""What every actor shows of its process, and the faults that it injects only when told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from actors import observe
from actors.wiring import basics
from cluster.api.faults import no_fault
from raft.metrics import Metrics


def count(name: str) -> float:
    return REGISTRY.get_sample_value(f"{name}_count") or 0.0


def test_syncs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # both are put back at the end
    monkeypatch.setattr(os, "fdatasync", os.fdatasync)
    before = count("sk8_fsync_seconds")
    observe.watch_syncs()
    with (tmp_path / "f").open("wb") as file:
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    with pytest.raises(OSError):
        os.fsync(999_999)
    assert count("sk8_fsync_seconds") == before + 3


def test_the_stores_metrics_show_the_processs_too() -> None:
    beside = CollectorRegistry()
    Gauge("of_the_process", "", registry=beside).set(7)
    metrics = Metrics()
    assert b"of_the_process" not in metrics.render()
    metrics.beside.append(beside)
    text = metrics.render()
    assert b"of_the_process 7.0" in text and b"etcd_server_leader_changes_seen" in text


def machine(tmp_path: Path, spec: str | None) -> Any:
    disk = tmp_path / "machines" / "m1"
    disk.mkdir(parents=True)
    if spec is not None:
        (disk / "faults").write_text(spec)

    class Machine:
        pass

    made: Any = Machine()
    made.disk = disk
    return made


def test_without_the_file_no_fault_is_injected(tmp_path: Path) -> None:
    assert basics.hit_of(machine(tmp_path, None), "kubelet") is no_fault


def test_a_parts_points_have_its_name_and_may_be_about_one_thing(tmp_path: Path) -> None:
    hit = basics.hit_of(machine(tmp_path, "fail:kubelet.after_sandbox~default/a@2\n"), "kubelet")
    hit("after_sandbox", "default/b")
    hit("after_sandbox", "default/a")
    hit("before_container", "default/a")
    with pytest.raises(OSError, match=r"injected fault at kubelet\.after_sandbox"):
        hit("after_sandbox", "default/a")
    other = basics.hit_of(machine(tmp_path / "other", "fail:kubelet.after_sandbox"), "proxy")
    other("after_sandbox", "")
