"""CNI plugins that hang, fail or are interrupted: shell scripts that write down how they were called stand for them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from cluster.node.cni import NetworkFailure
from cluster.node.cni_plugins import PluginNetwork

_PLUGIN = """#!/bin/sh
# {name}: an address on ADD. `hang-{name}`: ADD waits for a child for ever; `fail-VERB-{name}`: that verb fails
cd {root}
cat > /dev/null
echo "$CNI_COMMAND {name}" >> calls
echo "$CNI_NETNS" >> namespaces
if [ -e fail-$CNI_COMMAND-{name} ]; then echo '{{"code": 7, "msg": "out of order"}}'; exit 1; fi
[ $CNI_COMMAND = ADD ] || exit 0
if [ -e hang-{name} ]; then sleep 100000 & echo $! > child.new; mv child.new child; wait; fi
echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.0.0.7/24"}}]}}'
"""
ADDED, REMOVED = ["ADD main", "ADD tuning"], ["DEL tuning", "DEL main"]


class Machine:
    """A network of two plugins, one chained behind the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raised: list[str] = []
        plugins = [{"type": "main"}, {"type": "tuning"}]
        for plugin in plugins:
            binary = root / plugin["type"]
            binary.write_text(_PLUGIN.format(name=plugin["type"], root=root))
            binary.chmod(0o755)
        (root / "net.d").mkdir()
        content = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (root / "net.d" / "10.conflist").write_text(json.dumps(content))

    async def start(self, **given: float) -> PluginNetwork:
        """As a kubelet does; what it had before is as after a crash."""
        directories = (str(self.root), str(self.root / "net.d"), [str(self.root)])
        network = PluginNetwork(*directories, loopback=self.raised.append, **given)
        await network.setup("10.0.0.0/24")
        return network

    def calls(self) -> list[str]:
        """Since this was asked last."""
        calls = self.root / "calls"
        found = calls.read_text().splitlines()
        calls.write_text("")
        return found

    def switch(self, name: str, on: bool = True) -> None:
        (self.root / name).touch() if on else (self.root / name).unlink()

    async def interrupt_add(self, network: PluginNetwork) -> None:
        """Cancel it while the second plugin waits for its child."""
        self.switch("hang-tuning")
        task = asyncio.create_task(network.add("box", "/netns"))
        while not (self.root / "child").exists():
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.switch("hang-tuning", on=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def runs(pid: str) -> bool:
    """A process that is dead has no command line, though nobody may have asked for its exit status yet."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_an_add_that_is_cancelled_leaves_no_process(machine: Machine) -> None:
    async with asyncio.timeout(60):
        await machine.interrupt_add(await machine.start())
        child = (machine.root / "child").read_text().strip()
        while runs(child):
            await asyncio.sleep(0.01)


async def test_what_an_interrupted_add_took_is_given_back_by_the_next_kubelet(machine: Machine) -> None:
    async with asyncio.timeout(60):
        await machine.interrupt_add(await machine.start())
        assert machine.calls() == ADDED
        network = await machine.start()
        assert network.addresses("box") == () and not await network.check("box")
        assert await network.reconcile([]) == ["box"] and machine.calls() == REMOVED
        assert await network.reconcile([]) == []


async def test_an_interrupted_add_is_undone_before_it_is_repeated(machine: Machine) -> None:
    async with asyncio.timeout(60):
        network = await machine.start()
        await machine.interrupt_add(network)
        assert machine.calls() == ADDED
        assert await network.add("box", "/netns") == ("10.0.0.7",) == network.addresses("box")
        assert machine.calls() == [*REMOVED, *ADDED]


async def test_a_plugin_that_hangs_does_not_hold_the_sandbox_for_ever(machine: Machine) -> None:
    machine.switch("hang-main")
    network = await machine.start(call_s=0.2)
    async with asyncio.timeout(60):
        for _ in range(2):
            with pytest.raises(NetworkFailure, match=r'"main" failed \(add\): it did not end within 0\.2 s'):
                await network.add("box", "/netns")


async def test_a_failed_add_that_could_not_be_undone_is_remembered(machine: Machine) -> None:
    network = await machine.start()
    machine.switch("fail-ADD-tuning")
    machine.switch("fail-DEL-main")
    with pytest.raises(NetworkFailure, match=r'"tuning" failed \(add\): out of order'):
        await network.add("box", "/netns")
    assert await network.reconcile([]) == []
    machine.calls()
    machine.switch("fail-DEL-main", on=False)
    assert await network.reconcile([]) == ["box"] and machine.calls() == REMOVED


async def test_a_failed_add_that_was_undone_is_forgotten(machine: Machine) -> None:
    network = await machine.start()
    machine.switch("fail-ADD-tuning")
    with pytest.raises(NetworkFailure):
        await network.add("box", "/netns")
    assert machine.calls() == [*ADDED, *REMOVED] and await network.reconcile([]) == []


async def test_the_loopback_is_raised_before_the_plugins_run(machine: Machine) -> None:
    network = await machine.start()
    machine.switch("fail-ADD-main")
    with pytest.raises(NetworkFailure):
        await network.add("box", "/netns")
    assert machine.raised == ["/netns"]


async def test_another_namespace_at_the_same_path_is_not_given_to_plugins(machine: Machine) -> None:
    """The path is that of a process, whose id another may have by now."""
    path = machine.root / "namespace"
    path.touch()
    network = await machine.start()
    await network.add("box", str(path))
    (machine.root / "other").touch()
    os.replace(machine.root / "other", path)
    await network.delete("box")
    assert (machine.root / "namespaces").read_text().splitlines()[-2:] == ["", ""]


async def test_nor_is_that_of_another_process_with_the_numbers_of_both(machine: Machine) -> None:
    (machine.root / "7" / "ns").mkdir(parents=True)
    path, stat = machine.root / "7" / "ns" / "net", machine.root / "7" / "stat"
    path.touch()
    stat.write_text(f"7 (pause) S {' '.join(map(str, range(4, 30)))}\n")
    network = await machine.start()
    await network.add("box", str(path))
    assert await network.check("box")
    assert (machine.root / "namespaces").read_text().splitlines()[-1] == str(path)
    stat.write_text(f"7 (other) S {' '.join(map(str, range(5, 31)))}\n")
    await network.delete("box")
    assert (machine.root / "namespaces").read_text().splitlines()[-2:] == ["", ""]


async def test_the_machines_own_namespace_is_never_given_to_plugins(machine: Machine) -> None:
    """The sandbox had ended, and one of the machine's processes had its id."""
    network = PluginNetwork(str(machine.root), str(machine.root / "net.d"), [str(machine.root)])
    await network.setup("10.0.0.0/24")
    with pytest.raises(NetworkFailure, match="is the machine's own network namespace: the sandbox has ended"):
        await network.add("box", "/proc/self/ns/net")
    assert not (machine.root / "calls").exists()


async def test_a_record_that_was_torn_is_still_one(machine: Machine) -> None:
    network = await machine.start()
    await network.add("box", "/netns")
    (machine.root / "cni-results" / "box.json").write_text("")
    machine.calls()
    await network.delete("box")
    assert machine.calls() == REMOVED
