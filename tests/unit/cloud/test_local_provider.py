"""The provider's client against the host agent's own routes, over a real unix socket; no machine is started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from cluster.cloud.host_agent import HostAgent
from cluster.cloud.local import LocalProvider
from cluster.machine import identity
from cluster.machine.config import ClusterConfig, load_cluster, save_cluster
from cluster.machine.unix_http import post
from cluster.machinery.provider import DiskWish, Provider, ProviderError


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    made = replace(ClusterConfig.local(), prefix="sk8u", base_dir=str(tmp_path / "base"), run_dir=str(tmp_path / "run"))
    made.run.mkdir()
    identity.Authority(made).create()
    return made


@pytest.fixture
async def provider(config: ClusterConfig) -> AsyncIterator[LocalProvider]:
    runner = web.AppRunner(HostAgent(config).application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(config.host_socket)).start()
    yield LocalProvider(config.host_socket, timeout_s=10)
    await runner.cleanup()


async def test_it_fulfils_the_protocol(provider: LocalProvider) -> None:
    typed: Provider = provider
    machines = await typed.machines()
    assert [(m.name, m.state, m.addresses) for m in machines] == [
        ("m1", "off", ("10.89.0.11",)),
        ("m2", "off", ("10.89.0.12",)),
        ("m3", "off", ("10.89.0.13",)),
    ]
    async for now in typed.watch_machines():
        assert now == machines
        break


async def test_disks_over_the_socket(provider: LocalProvider) -> None:
    await provider.create_disk(DiskWish("pg", 1 << 20))
    await provider.create_disk(DiskWish("pg", 1 << 20))
    assert [(d.name, d.attached_to) for d in await provider.disks()] == [("pg", "")]
    with pytest.raises(ProviderError, match="m1 is off") as off:
        await provider.attach_disk("pg", "m1")
    assert off.value.retriable
    with pytest.raises(ProviderError, match="no machine 'm9'") as unknown:
        await provider.attach_disk("pg", "m9")
    assert not unknown.value.retriable
    await provider.detach_disk("pg", "m1")
    await provider.delete_disk("pg")
    await provider.delete_disk("pg")
    assert await provider.disks() == []


async def test_killing_what_is_off_is_fine_cutting_its_cable_is_not(provider: LocalProvider) -> None:
    await provider.kill("m1")
    with pytest.raises(ProviderError, match="m1 is off"):
        await provider.set_link("m1", up=False)


async def test_joining_over_the_socket(provider: LocalProvider, config: ClusterConfig) -> None:
    machine = config.machine("m1")
    identity.Authority(config).provision(machine)
    request = identity.join_request(machine)
    answer = await post(config.host_socket, "/v1/join", request.to_json(), 10)
    identity.install(machine, request, identity.JoinReply.from_json(answer))
    assert identity.is_complete(machine)
    with pytest.raises(ValueError, match=r"400.*used up"):
        await post(config.host_socket, "/v1/join", request.to_json(), 10)


async def test_an_agent_says_what_its_release_can(provider: LocalProvider) -> None:
    await provider.need("workers")
    with pytest.raises(ProviderError, match="an older sk8"):
        await provider.need("what the next release brings")


async def test_nobody_there_is_retriable(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="does not answer") as e:
        await LocalProvider(tmp_path / "none.sock").machines()
    assert e.value.retriable


async def test_a_worker_comes_and_goes(provider: LocalProvider, config: ClusterConfig) -> None:
    save_cluster(config)
    assert await provider.add_machine(zone="b") == "m4"
    assert [(m.name, m.zone, m.state) for m in await provider.machines()][-1] == ("m4", "b", "off")
    machine = load_cluster(config.base).machine("m4")
    identity.Authority(load_cluster(config.base)).provision(machine)
    request = identity.join_request(machine)
    await post(config.host_socket, "/v1/join", request.to_json(), 10)
    await provider.remove_machine("m4")
    assert not machine.disk.exists()
    assert [m.name for m in load_cluster(config.base).machines] == ["m1", "m2", "m3"]
    with pytest.raises(ProviderError, match="no machine 'm4'"):
        await provider.kill("m4")


async def test_which_machines_are_neither_added_nor_removed(provider: LocalProvider) -> None:
    for refused, why in ((provider.add_machine("m1"), "already"), (provider.remove_machine("m1"), "control plane")):
        with pytest.raises(ProviderError, match=why) as error:
            await refused
        assert not error.value.retriable
    assert len(await provider.machines()) == 3
