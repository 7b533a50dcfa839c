"""Whether a kubeconfig already leads to this cluster: what a second `sk8 up` asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster.cli import kubeconfig

ACCESS = kubeconfig.Access("https://127.0.0.1:6443", b"ca", b"cert", b"key")


def test_a_file_without_ours_then_with_ours_then_with_an_older_cluster(tmp_path: Path) -> None:
    path = tmp_path / "config"
    assert not kubeconfig.has(path, ACCESS)
    kubeconfig.install(path, ACCESS)
    assert kubeconfig.has(path, ACCESS)
    assert not kubeconfig.has(path, replace(ACCESS, ca=b"another"))
