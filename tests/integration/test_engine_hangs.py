"""The real engine, hanging on one container because its shim was stopped: both containers go all the same."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from cluster.cloud import engine
from cluster.cloud.container_processes import processes_of
from cluster.cloud.engine import LABEL, Engine
from cluster.machine.processes import ProcessId, all_processes, command_line
from tests.support.node_world import IMAGE, NODE_TESTS, sh

pytestmark = NODE_TESTS
_MACHINE = f"sk8t-hang-{os.getpid()}"


@pytest.fixture
def containers() -> Iterator[list[str]]:
    run = ("docker", "run", "--detach", "--network=none", f"--label={LABEL}={_MACHINE}", IMAGE, "sleep", "600")
    made = [sh(*run).strip() for _ in range(2)]
    yield made
    sh("docker", "rm", "--force", *made, check=False)


@contextlib.contextmanager
def stopped_shim(container: str) -> Iterator[None]:
    shims = [ProcessId(p.pid, p.start) for p in all_processes() if container in command_line(p.pid)]
    assert len(shims) == 1
    shims[0].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        shims[0].signal(signal.SIGCONT)


async def test_a_machine_loses_its_containers_though_the_engine_hangs_on_one(
    containers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Engine("/var/run/docker.sock")
    assert sorted(await made.containers(_MACHINE)) == sorted(containers)
    assert set(processes_of(containers)) == set(containers)
    with stopped_shim(containers[0]), monkeypatch.context() as hurried:
        hurried.setattr(engine, "_CALL_S", 3.0)
        await made.kill(containers)
        assert not processes_of(containers)
        await made.remove(containers)
    assert await made.remove(containers) == {}, "what was not gone in those seconds is by now"
    assert await made.containers(_MACHINE) == []
