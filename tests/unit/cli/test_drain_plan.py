"""Which pods a drain takes: kubectl's rules, in its order."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError, not_found
from cluster.api.meta import rfc3339
from cluster.cli import drain_plan
from cluster.cli.drain_plan import Flags, go_duration, judge

NOW = 1_800_000_000.0


def pod(name: str = "p", owner: str = "ReplicaSet", phase: str = "Running", **meta: Any) -> dict[str, Any]:
    owners = [{"kind": owner, "name": "o", "controller": True}] if owner else []
    metadata = {"name": name, "namespace": "default", "ownerReferences": owners, **meta}
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase}}


def scratch(**kwargs: Any) -> dict[str, Any]:
    made = pod("scratch", **kwargs)
    made["spec"] = {"volumes": [{"name": "s", "secret": {}}, {"name": "tmp", "emptyDir": {}}]}
    return made


@pytest.mark.parametrize(
    ("what", "flags", "takes", "says"),
    [
        (pod(), Flags(), True, ""),
        (pod(owner=""), Flags(), False, "error: cannot delete Pods that declare no controller (use --force"),
        (pod(owner=""), Flags(force=True), True, "warning: deleting Pods that declare no controller"),
        (pod(owner="", phase="Succeeded"), Flags(), True, ""),
        (pod(owner="", phase="Failed"), Flags(), True, ""),
        (
            pod(owner="DaemonSet"),
            Flags(),
            False,
            "error: cannot delete DaemonSet-managed Pods (use --ignore-daemonsets",
        ),
        (pod(owner="DaemonSet"), Flags(ignore_daemonsets=True), False, "warning: ignoring DaemonSet-managed Pods"),
        (pod(owner="DaemonSet", phase="Failed"), Flags(), True, ""),
        (pod(owner="Node", annotations={drain_plan.MIRROR: "h"}), Flags(), False, ""),
        (scratch(), Flags(), False, "error: cannot delete Pods with local storage (use --delete-emptydir-data"),
        (scratch(), Flags(delete_emptydir_data=True), True, ""),
        (scratch(phase="Succeeded"), Flags(), True, ""),
        (pod(deletionTimestamp=rfc3339(NOW - 20)), Flags(skip_wait_s=10), False, ""),
        (pod(deletionTimestamp=rfc3339(NOW - 5)), Flags(skip_wait_s=10), True, ""),
        (pod(deletionTimestamp=rfc3339(NOW - 5)), Flags(), True, ""),
    ],
)
def test_the_rules(what: dict[str, Any], flags: Flags, takes: bool, says: str) -> None:
    found = judge(what, flags, NOW)
    assert found.takes is takes
    told = f"error: {found.error}" if found.error else f"warning: {found.warning}" if found.warning else ""
    assert told.startswith(says) and bool(told) == bool(says)


def test_a_pod_whose_daemon_set_is_gone_needs_force() -> None:
    gone = not_found("daemonsets.apps", "o")
    orphan = pod(owner="DaemonSet")
    assert judge(orphan, Flags(ignore_daemonsets=True), NOW, gone).error == gone.message
    forced = judge(orphan, Flags(force=True), NOW, gone)
    assert forced.takes and not forced.error


@pytest.mark.parametrize("flags", [Flags(force=True), Flags(force=True, ignore_daemonsets=True)])
def test_a_pod_whose_daemon_set_could_not_be_asked_for_forbids_the_drain(flags: Flags) -> None:
    """Regression: any error counted as "it is gone", and with force its pods were evicted."""
    silent = ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    found = judge(pod(owner="DaemonSet"), flags, NOW, silent)
    assert not found.takes and found.error == silent.message


def test_the_same_words_are_said_once_with_all_pods_behind_them() -> None:
    flags = Flags(ignore_daemonsets=True)
    found = [judge(p, flags, NOW) for p in (pod("a", ""), pod("b", "DaemonSet"), pod("c", ""), pod("d", "DaemonSet"))]
    assert drain_plan.warnings(found) == "ignoring DaemonSet-managed Pods: default/b, default/d"
    text = "cannot delete Pods that declare no controller (use --force to override): default/a, default/c"
    assert drain_plan.errors(found) == [text]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3s"), (90, "1m30s"), (3600, "1h0m0s"), (0.5, "0.5s"), (5400, "1h30m0s")]
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
