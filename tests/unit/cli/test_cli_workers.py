"""`sk8 machine remove` ends no pods by surprise."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cli.output import CommandError
from cluster.cli.workers import _need_drained


def pod(name: str, phase: str = "Running", owner: str = "ReplicaSet") -> dict[str, Any]:
    owners = [{"kind": owner, "name": "o", "controller": True}]
    return {"metadata": {"namespace": "default", "name": name, "ownerReferences": owners}, "status": {"phase": phase}}


def test_pods_that_drain_would_move_are_named() -> None:
    with pytest.raises(CommandError, match=r"pods run on m4: default/a, default/b, default/c and 1 more$") as error:
        _need_drained("m4", [pod(name) for name in "abcd"])
    assert "kubectl drain m4" in error.value.fix


def test_pods_that_are_over_or_belong_to_the_machine_are_not() -> None:
    _need_drained(
        "m4", [pod("d", owner="DaemonSet"), pod("s", owner="Node"), pod("j", "Succeeded"), pod("f", "Failed")]
    )
    bare = pod("bare")
    del bare["metadata"]["ownerReferences"]
    with pytest.raises(CommandError, match="default/bare"):
        _need_drained("m4", [bare])
