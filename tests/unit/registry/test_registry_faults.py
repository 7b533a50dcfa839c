"""The fault points of a write: what a crash before the commit, or between the commit and the answer, leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.errors import ApiError
from raft.faults import Faults


class PowerCut(BaseException):
    """What ends a process in these tests."""


def cut() -> None:
    raise PowerCut


def registry_with(bench: Any, spec: str) -> Any:
    faults = Faults.parse(spec, on_crash=cut)
    return bench.another(hit=lambda point, about: faults.hit(f"apiserver.{point}", about))


@pytest.mark.parametrize(("point", "stored"), [("before_commit", False), ("after_commit", True)])
async def test_a_crash_leaves_all_of_a_write_or_nothing(bench: Any, make: Any, point: str, stored: bool) -> None:
    bench.registry = registry_with(bench, f"crash:apiserver.{point}~services/default/s")
    await bench.create("configmaps", {"metadata": {"name": "other"}})  # not what the rule is about
    with pytest.raises(PowerCut):
        await bench.create("services", make.service(type="NodePort"))
    bench.registry = bench.another()  # the process that comes back
    where = ("/registry/core/services/default/s", "/registry/networking.k8s.io/ipaddresses/", "/sk8/alloc/")
    kept = [key for prefix in where for key in bench.keys(prefix)]
    if stored:
        assert len(kept) == 3, "the Service with its address and its port"
        with pytest.raises(ApiError, match="already exists"):  # what a client that tries again is told
            await bench.create("services", make.service(type="NodePort"))
    else:
        assert kept == []
        assert (await bench.create("services", make.service(type="NodePort"))).obj["spec"]["clusterIP"]


async def test_writes_that_a_quota_charges_pass_the_fault_points(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}})
    passed: list[tuple[str, str]] = []
    bench.registry = bench.another(hit=lambda point, about: passed.append((point, about)))
    await bench.create("pods", make.pod("a"))
    written = [(point, about.split()[-1]) for point, about in passed if "/pods/default/a" in about]
    # the first attempt meets the quota; the second is charged, and is one transaction with the quota's status
    assert written[-2:] == [(p, "/registry/core/pods/default/a") for p in ("before_commit", "after_commit")]
    assert "/registry/core/resourcequotas/default/q" in passed[-1][1]


async def test_a_failure_of_a_charged_write_is_told_to_its_writer(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}})
    bench.registry = registry_with(bench, "fail:apiserver.before_commit~resourcequotas/default/q@1")
    async with asyncio.timeout(60):
        with pytest.raises(OSError, match="injected fault"):
            await bench.create("pods", make.pod("a"))
        assert bench.keys("/registry/core/pods/") == []
        await bench.create("pods", make.pod("a"))
    assert (await bench.get("resourcequotas", "q")).obj["status"]["used"] == {"pods": "1"}


async def test_a_failure_before_the_commit_changes_nothing(bench: Any) -> None:
    bench.registry = registry_with(bench, "fail:apiserver.before_commit@1")
    with pytest.raises(OSError, match="injected fault"):
        await bench.create("configmaps", {"metadata": {"name": "m"}})
    await bench.create("configmaps", {"metadata": {"name": "m"}})
