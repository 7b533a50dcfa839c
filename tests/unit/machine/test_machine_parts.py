"""Smaller parts of sk8-machine: process table, Ray's command line, epochs and turns, files and locks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.machine import identity, rejoin
from cluster.machine.config import ClusterConfig
from cluster.machine.files import Lock, Locked, write_atomic
from cluster.machine.machine_config import MachineConfig
from cluster.machine.probe import MachineProbe
from cluster.machine.processes import Children, ProcessId, children_of, parse_stat
from cluster.machine.ray_command import ensure_command, environment, start_command, stop_command

CONFIG = ClusterConfig.local()
PYTHON = Path("/venv/bin/python")


def test_process_names_may_hold_anything() -> None:
    text = "42 (a) b (c) S 7 " + " ".join(str(n) for n in range(5, 23))
    found = parse_stat(text)
    assert (found.pid, found.name, found.state, found.parent, found.alive) == (42, "a) b (c", "S", 7, True)
    assert found.start == 22


def test_a_process_is_its_pid_and_its_beginning() -> None:
    child = subprocess.Popen(["sleep", "60"])
    me = ProcessId.of(child.pid)
    assert me is not None and me.alive()
    other = ProcessId(child.pid, me.start + 1)
    assert not other.alive() and not other.signal(signal.SIGKILL)
    assert me.signal(signal.SIGKILL)
    child.wait()
    assert not me.alive()


async def test_children_end_time_out_and_are_reaped(tmp_path: Path) -> None:
    children = Children()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, children.reap)
    try:
        out = tmp_path / "out"
        assert await children.run(["sh", "-c", "echo hi; exit 3"], os.environ, out, 60) == 3
        assert out.read_text() == "hi\n"
        with pytest.raises(TimeoutError):
            await children.run(["sleep", "60"], os.environ, out, 0.1)
        for killed in [p.pid for p in children_of(os.getpid()) if p.name == "sleep"]:  # it may take a while to die
            assert await asyncio.wait_for(children.ended(killed), 60) == -signal.SIGKILL
        pid = children.start(["sleep", "60"], os.environ, out)
        ended = children.ended(pid)
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.wait_for(ended, 60) == -signal.SIGKILL
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


def test_ray_head_and_workers_are_started_differently() -> None:
    head = start_command(CONFIG, CONFIG.machine("m1"), PYTHON)
    worker = start_command(CONFIG, CONFIG.machine("m2"), PYTHON)
    assert head[:3] == ["/venv/bin/ray", "start", "--head"] and "--port=6379" in head
    assert "--address=10.89.0.11:6379" in worker and "--head" not in worker
    assert f"--resources={json.dumps({'sk8:m2': 1000})}" in worker
    assert "--block" not in head


def test_ray_environment_names_what_it_takes_from_the_caller() -> None:
    caller = {"HOME": "/root", "RAY_worker_niceness": "15", "SECRET": "x", "LD_PRELOAD": "y"}
    head = environment(CONFIG, CONFIG.machine("m1"), PYTHON, Path("/src"), caller)
    worker = environment(CONFIG, CONFIG.machine("m2"), PYTHON, None, {})
    assert head["RAY_gcs_storage"] == "rocksdb" and "RAY_gcs_storage" not in worker
    assert head["RAY_worker_niceness"] == "0" and "SECRET" not in head and "LD_PRELOAD" not in head
    assert head["RAY_AUTH_MODE"] == "token" and head["RAY_AUTH_TOKEN_PATH"].endswith("machines/m1/pki/ray.token")
    assert head["PYTHONPATH"] == "/src" and "PYTHONPATH" not in worker
    assert head["PATH"].startswith("/venv/bin:") and worker["HOME"] == "/root"


def test_the_ensure_command_can_be_replaced() -> None:
    machine = CONFIG.machine("m2")
    assert ensure_command(CONFIG, machine, PYTHON)[1:5] == ["-m", "actors.ensure", "--machine", "m2"]
    assert stop_command(CONFIG, machine, PYTHON)[-1] == "--stop"
    custom = replace(CONFIG, ensure_command=("/bin/echo", "{machine}", "{base}"))
    assert ensure_command(custom, machine, PYTHON) == ["/bin/echo", "m2", "/var/lib/sk8"]
    assert stop_command(custom, machine, PYTHON) == []


def machine_in(tmp_path: Path, name: str = "m1") -> MachineConfig:
    config = replace(CONFIG, base_dir=str(tmp_path / "sk8"))
    authority = identity.Authority(config)
    authority.create()
    machine = config.machine(name)
    authority.provision(machine)
    request = identity.join_request(machine)
    identity.install(machine, request, authority.admit(name, request.token, request.requests))
    return machine


def test_an_epoch_lasts_as_long_as_rays_metadata(tmp_path: Path) -> None:
    machine = replace(CONFIG.machine("m1"), base_dir=str(tmp_path))
    first = rejoin.current_epoch(machine)
    (machine.ray_dir / "gcs" / "CURRENT").write_text("x")
    assert rejoin.current_epoch(machine) == first
    (machine.ray_dir / "gcs" / "CURRENT").unlink()
    assert rejoin.current_epoch(machine) != first


async def test_turns_are_given_one_at_a_time_and_end_with_the_connection(tmp_path: Path) -> None:
    server_context, client_context = rejoin.contexts(machine_in(tmp_path))
    client_context.check_hostname = False  # the certificate names 10.89.0.11; this server is on loopback
    probe = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    listen = ("127.0.0.1", int(probe.sockets[0].getsockname()[1]))
    probe.close()
    said = {"epoch": "e1", "ensured": True, "life": "l", "settings": "digest"}
    head = rejoin.HeadServer(listen, server_context, lambda: said, turn_s=60)
    task = asyncio.create_task(head.run())
    client = rejoin.HeadClient(listen, client_context)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await client.status() == rejoin.HeadStatus("e1", True, life="l", settings="digest")
                    break
                except rejoin.Unreachable:
                    await asyncio.sleep(0.01)
        async with client.turn("m2", 5) as two:
            assert two
            async with client.turn("m3", 0.2) as three:
                assert not three
        async with client.turn("m3", 5) as three:
            assert three
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_machine_answers_at_its_nodes_address_under_its_own_name(tmp_path: Path, unused_tcp_port: int) -> None:
    worker = machine_in(tmp_path, "m2")
    planes = replace(CONFIG, machines=(CONFIG.spec("m1"),), machine_port=unused_tcp_port)  # they do not name it
    probe = MachineProbe(planes, worker)
    status = {"epoch": "e1", "ensured": True}
    server = rejoin.HeadServer(("127.0.0.1", unused_tcp_port), rejoin.contexts(worker)[0], lambda: status, turn_s=60)
    task = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(60):
            while not await probe.answers("m2", "127.0.0.1"):
                await asyncio.sleep(0.05)
        assert not await probe.answers("hollow", "127.0.0.1") and not await probe.answers("m2", "")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_silent_head_proves_nothing(tmp_path: Path) -> None:
    _, client_context = rejoin.contexts(machine_in(tmp_path))
    with pytest.raises(rejoin.Unreachable):
        await rejoin.HeadClient(("127.0.0.1", 1), client_context).status(0.5)


def test_atomic_writes_keep_the_old_file_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_lock_belongs_to_one_process_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys,time; from pathlib import Path; from cluster.machine.files import Lock;"
        "l=Lock(Path(sys.argv[1])); l.acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=f"held by process {holder.pid}"):
            Lock(tmp_path / "lock").acquire()
    finally:
        holder.kill()
        holder.communicate()
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    lock.release()
