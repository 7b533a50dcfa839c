"""Local machines for real: a host agent, namespaces on a switch, Ray across them, disks, power failures.

Everything carries the prefix sk8t and addresses of its own, so that it runs beside a cluster. Ray's actors are not
started here: the ensure command is a trivial one.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cluster.cli import agent, up
from cluster.cli.output import Output
from cluster.cloud import cleanup, mounts
from cluster.cloud.disks import Disks
from cluster.cloud.engine import Engine
from cluster.cloud.local import LocalProvider
from cluster.cloud.machines import living
from cluster.cloud.network import Switch
from cluster.machine import identity
from cluster.machine.config import ClusterConfig, MachineSpec, save_cluster
from cluster.machine.files import make_private_dir
from cluster.machine.machine_config import load_machine
from cluster.machine.processes import ProcessId, wait_gone
from cluster.machinery.provider import DiskWish, ProviderError

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MIB = 1 << 20


def configuration() -> ClusterConfig:
    """Short directories: Ray's socket paths must fit 107 bytes."""
    number = os.getpid()
    return ClusterConfig(
        machines=(MachineSpec("t1", "10.88.77.11", True), MachineSpec("t2", "10.88.77.12", False)),
        prefix="sk8t",
        base_dir=f"/var/lib/sk8t{number}",
        run_dir=f"/run/sk8t{number}",
        node_cidr="10.88.77.0/24",
        host_ip="10.88.77.1",
        api_port=16443,
        ray_head="t1",
        ray_num_cpus=1,
        ensure_command=("/bin/echo", "{machine} is complete"),
    ).validate()


@dataclass
class Box:
    config: ClusterConfig
    provider: LocalProvider

    def log(self, machine: str) -> str:
        path = self.config.machine(machine).log_dir / "machine.log"
        return path.read_text() if path.exists() else ""

    def inside(self, machine: str, *command: str) -> subprocess.CompletedProcess[str]:
        net = f"--net=/run/netns/{self.config.machine(machine).netns}"
        return subprocess.run(["nsenter", net, *command], capture_output=True, text=True, timeout=30, check=False)


async def eventually(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.1)


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    config = configuration()
    make_private_dir(config.base)
    authority = identity.Authority(config)
    authority.create()
    for spec in config.machines:
        authority.provision(config.first_machine(spec.name))
    save_cluster(config)
    try:
        await agent.start(config)
        yield Box(config, LocalProvider(config.host_socket))
    finally:
        await agent.stop(config)
        await cleanup.remove(config, Engine(config.engine_socket))
        left = cleanup.find(config)
        cleanup.remove_files(config, keep_data=False)
    assert not left.any, left.summary()


def test_a_switch_carries_packets_until_a_cable_is_cut() -> None:
    config = replace(configuration(), run_dir=f"/run/sk8t{os.getpid()}s")
    switch = Switch(config)
    code = "import socket,sys; s=socket.create_server(('10.88.77.12',7)); print('up',flush=True); s.accept()"
    try:
        switch.make()
        for spec in config.machines:
            switch.make_machine(spec)
            switch.make_machine(spec)
        enter = ["nsenter", "--net=/run/netns/sk8t-t2"]
        server = subprocess.Popen([*enter, sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None and server.stdout.readline() == b"up\n"
            assert switch.set_link("t1", up=False)
            assert not connects("t1")
            assert switch.set_link("t1", up=True)
            # The kernel tells of a carrier once a second at most, and a neighbour that failed is asked again later.
            assert any(connects("t1") for _ in range(30))
        finally:
            server.kill()
            server.communicate()
        assert not switch.set_link("t9", up=False)
    finally:
        for spec in config.machines:
            switch.remove_machine(spec.name)
        switch.remove()
    assert not switch.namespaces()
    assert not os.path.exists(f"/sys/class/net/{switch.host_link}")


def connects(machine: str) -> bool:
    code = "import socket; socket.create_connection(('10.88.77.12',7),1)"
    command = ["nsenter", f"--net=/run/netns/sk8t-{machine}", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_disk_is_a_device_of_one_machine(tmp_path: Path) -> None:
    """The second machine is refused, a mounted device stays, and what was written is there on the next machine."""
    disks = Disks(tmp_path / "disks")
    disks.create("pg", 16 * MIB)
    place = tmp_path / "mnt"
    place.mkdir()
    try:
        device = disks.attach("pg", "t1")
        assert disks.attach("pg", "t1") == device
        with pytest.raises(Exception, match="attached to machine t1"):
            disks.attach("pg", "t2")
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, str(place)], check=True)
        (place / "row").write_text("kept")
        with pytest.raises(Exception, match="is mounted on"):
            disks.detach("pg", "t1")
        subprocess.run(["umount", str(place)], check=True)
        disks.detach("pg", "t1")
        device = Disks(tmp_path / "disks").attach("pg", "t2")
        subprocess.run(["mount", device, str(place)], check=True)
        assert (place / "row").read_text() == "kept"
    finally:
        subprocess.run(["umount", str(place)], check=False, capture_output=True)
        disks = Disks(tmp_path / "disks")
        disks.release_all()
    assert "pg.img" not in subprocess.run(["losetup", "-l"], capture_output=True, text=True, check=True).stdout


def test_sharing_a_directory_keeps_what_is_mounted_in_it(tmp_path: Path) -> None:
    inner = tmp_path / "d" / "inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True)
    (inner / "file").write_text("x")
    try:
        first = mounts.share(tmp_path / "d")
        assert (inner / "file").read_text() == "x"
        assert not mounts.share(tmp_path / "d")
        assert first == any(m.path == tmp_path / "d" for m in mounts.mounts())
    finally:
        mounts.unmount_below(tmp_path / "d")
        mounts.unshare(tmp_path / "d")
    assert not [m for m in mounts.mounts() if tmp_path in m.path.parents]


async def test_the_boxes_proc_is_kept_once_read_only_and_for_no_namespace_that_is_there_already(tmp_path: Path) -> None:
    """Regression: machines that started side by side stacked two, of which `sk8 down` took one away."""
    shared, kept = tmp_path / "d", tmp_path / "d" / "proc"
    mounts.share(shared)
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "unchanged", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as neighbour:
        try:
            assert neighbour.stdin is not None and neighbour.stdout is not None
            neighbour.stdin.write(b"\n")
            neighbour.stdin.flush()
            assert neighbour.stdout.readline() == b"\n", "it is in its namespace"
            await asyncio.gather(*(asyncio.to_thread(mounts.keep_proc, kept) for _ in range(4)))
            assert [m.kind for m in mounts.mounts() if m.path == kept].count("proc") == 1
            assert (kept / str(os.getpid()) / "stat").exists() and os.statvfs(kept).f_flag & os.ST_RDONLY
            theirs = mounts.parse_mountinfo(Path(f"/proc/{neighbour.pid}/mountinfo").read_text())
            assert "proc" not in [m.kind for m in theirs if m.path == kept]
            machine = ["unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc"]
            seen = subprocess.run([*machine, "readlink", str(kept / "self")], capture_output=True, check=True)
            assert int(seen.stdout) > 1, "the box's, not the machine's own"
        finally:
            mounts.drop_proc(kept)
            mounts.unshare(shared)
    assert not kept.exists() and not [m for m in mounts.mounts() if tmp_path in m.path.parents]


@pytest.mark.timeout(300)
async def test_machines_join_run_ray_and_survive_their_agent_and_a_wiped_head(box: Box) -> None:
    config, provider = box.config, box.provider
    await asyncio.gather(provider.start("t1"), provider.start("t2"))
    for name in ("t1", "t2"):
        await eventually(lambda n=name: "all actors of this machine" in box.log(n), 90, f"{name}: {box.log(name)}")
    await raylets_know_each_other(box)

    # A mount made in a machine is seen by the host, and goes with the machine.
    place = config.machine("t2").disk / "kubelet"
    place.mkdir()
    pid = next(m.pid for m in await provider.local_machines() if m.status.name == "t2")
    subprocess.run(["nsenter", "-t", str(pid), "-m", "mount", "-t", "tmpfs", "none", str(place)], check=True)
    assert any(m.path == place for m in mounts.mounts())

    # A new host agent finds the machines; they never noticed.
    assert await agent.stop(config)
    assert await agent.start(config)
    assert {m.status.name: m.pid for m in await provider.local_machines()}["t2"] == pid
    with pytest.raises(ProviderError, match="is running"):
        await provider.start("t2")

    # Nor when it is killed and `sk8 up` starts another one.
    before = {m.status.name: m.pid for m in await provider.local_machines()}
    killed = agent.process(config)
    assert killed is not None and killed.signal(signal.SIGKILL) and not await wait_gone([killed], 5)
    assert living(config) == ["t1", "t2"]
    err = io.StringIO()
    await up._bring_agent_back(config, Output(err=err), 30)
    assert err.getvalue() == "the host agent was gone; started it again, adopted t1, t2\n"
    assert {m.status.name: m.pid for m in await provider.local_machines()} == before

    # Power failure: "off" means that nothing of it is left.
    device = await attach(provider)
    init = ProcessId.of(pid)
    assert init is not None
    await provider.kill("t2")
    assert [m.state for m in await provider.machines()] == ["running", "off"]
    assert not await wait_gone([init], 1)
    assert not any(m.path == place for m in mounts.mounts())
    assert device not in subprocess.run(["losetup", "-l"], capture_output=True, text=True, check=True).stdout
    assert [d.attached_to for d in await provider.disks()] == ["t2"]
    assert not os.path.exists("/run/netns/sk8t-t2")
    await provider.detach_disk("pg", "t2")

    # The head loses its disk: a new Ray, a new identity, no State membership; the other machine rejoins.
    await provider.start("t2")
    await eventually(lambda: box.log("t2").count("all actors of this machine") == 2, 90, "t2 again")
    member = load_machine(config.base, "t1").state_member_id
    await provider.kill("t1")
    await provider.start("t1", wipe=True)
    await eventually(lambda: "all actors of this machine" in box.log("t1"), 90, f"t1: {box.log('t1')}")
    assert (member, load_machine(config.base, "t1").state_member_id) == (1, 0)
    await eventually(lambda: box.log("t2").count("all actors of this machine") == 3, 90, f"t2: {box.log('t2')}")
    assert "the head runs Ray epoch" in box.log("t2")
    await raylets_know_each_other(box)

    # In good order.
    await asyncio.gather(provider.stop("t2"), provider.stop("t1"))
    assert [m.state for m in await provider.machines()] == ["off", "off"]


async def attach(provider: LocalProvider) -> str:
    await provider.create_disk(DiskWish("pg", 8 * MIB))
    device = await provider.attach_disk("pg", "t2")
    with pytest.raises(ProviderError, match="attached to machine t2"):
        await provider.attach_disk("pg", "t1")
    return device


async def raylets_know_each_other(box: Box) -> None:
    """Asks Ray itself, from inside the head machine."""
    code = (
        "import ray,os; ray.init(address='10.88.77.11:6379', _node_ip_address='10.88.77.11', logging_level='ERROR');"
        "print(sorted(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']), flush=True); os._exit(0)"
    )
    pid = next(m.pid for m in await box.provider.local_machines() if m.status.name == "t1")
    environ = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(box.config.machine("t1").ray_token),
        "PATH": os.environ["PATH"],
        "HOME": "/root",
    }
    command = ["nsenter", "-t", str(pid), "-n", "-p", "-m", sys.executable, "-c", code]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert done.stdout.strip().splitlines()[-1:] == ["['10.88.77.11', '10.88.77.12']"], done.stdout + done.stderr


def test_nothing_of_ours_is_on_the_box() -> None:
    """Runs last: the tests above left nothing."""
    assert not Switch(configuration()).namespaces()
    assert not list(Path("/run").glob("sk8t*")) and not list(Path("/var/lib").glob("sk8t*"))
    assert shutil.which("losetup") is not None
