"""A VM joins over real TLS on loopback; who may, and what is refused."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.api import signers
from cluster.api.forgotten import counts
from cluster.machine import identity, joining
from cluster.machine.api_nodes import Known
from cluster.machine.config import ClusterConfig, MachineSpec, load_cluster, save_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.identity import Authority
from cluster.machine.join_ledger import Admission, JoinLedger, Ticket, ca_pin, new_token
from cluster.machine.joining import Joiner, JoinRefused, JoinServer
from cluster.machine.machine_config import load_machine
from cluster.machine.pki import PkiError, _key_pem, machine_address, made_at, new_ca
from tests.support.signing_requests import request_pem

CONNECT = asyncio.open_connection
HEAD, PLANE, WORKER, OTHER, THIRD = (f"127.0.0.{last}" for last in (1, 2, 3, 8, 9))


def cluster(base: Path, port: int) -> ClusterConfig:
    machines = tuple(MachineSpec(f"cp{i}", ip, True) for i, ip in ((1, HEAD), (2, PLANE), (3, THIRD)))
    made = ClusterConfig(
        machines=machines,
        provider="vm",
        ray_head="cp1",
        cluster_id="abc",
        node_cidr="127.0.0.0/8",
        base_dir=str(base),
        join_port=port,
    )
    authority = Authority(made)
    authority.create()
    head = made.first_machine("cp1")
    authority.provision(head)
    authority.admit_itself(head)
    JoinLedger(made).invite_founders("cp1")
    save_cluster(made)
    return made.validate()


@pytest.fixture
def nodes() -> dict[str, Known]:
    """What the API knows, by name."""
    return {}


@pytest.fixture
async def head(tmp_path: Path, unused_tcp_port: int, nodes: dict[str, Known]) -> AsyncIterator[ClusterConfig]:
    made = await asyncio.to_thread(cluster, tmp_path / "head" / "sk8", unused_tcp_port)

    async def known(name: str) -> Known:
        if name == "silent":
            raise TimeoutError
        return nodes.get(name, Known())

    server = asyncio.create_task(JoinServer(made, made.machine("cp1"), known).run())
    yield made
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


def ticket(config: ClusterConfig, token: str = "") -> Ticket:
    pin = ca_pin((config.pki / "ca.crt").read_bytes())
    return Ticket(f"{HEAD}:{config.join_port}", token or JoinLedger(config).add_token(), pin)


def joiner(base: Path, name: str, ip: str) -> Joiner:
    return Joiner(name, ip, "z1", base, {"cpu_millicores": 4000})


async def joined(config: ClusterConfig, who: Joiner, monkeypatch: pytest.MonkeyPatch, with_: Ticket | None = None):
    """`who` joins from its own address: all of 127.0.0.0/8 is this box."""

    async def from_own(host: str, port: int, **options: object) -> object:
        return await CONNECT(host, port, local_addr=(who.ip, 0), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "open_connection", from_own)
    async with asyncio.timeout(60):  # until the server listens
        while True:
            try:
                return await joining.join(with_ or ticket(config), who)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


async def test_a_worker_gets_what_a_worker_needs_and_nothing_else(head, tmp_path, monkeypatch) -> None:
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    assert identity.is_complete(machine)
    names = sorted(p.name for p in machine.pki.iterdir())
    assert names == ["ca.crt", "node.crt", "node.key", "proxy.crt", "proxy.key", "ray.token"]
    certificate = x509.load_pem_x509_certificate((machine.pki / "node.crt").read_bytes())
    assert "CN=system:node:w1" in certificate.subject.rfc4514_string()
    own = load_cluster(tmp_path / "w" / "sk8")
    assert [m.name for m in own.machines] == ["cp1", "cp2", "cp3", "w1"]
    assert own.spec("w1") == MachineSpec("w1", WORKER, False, "z1")
    assert own.cpu_millicores == 4000, "each machine offers what it has"
    assert not (tmp_path / "w" / "sk8" / "pki").exists()
    assert not (tmp_path / "w" / "sk8" / "join.json").exists()


async def test_a_declared_control_plane_founds_the_store_once(head, tmp_path, monkeypatch) -> None:
    base = tmp_path / "p" / "sk8"
    machine = await joined(head, joiner(base, "whatever", PLANE), monkeypatch)
    assert (machine.name, machine.control_plane, machine.zone) == ("cp2", True, "z1")
    assert machine.state_bootstrap and machine.state_member_id == 2
    own = load_cluster(base)
    assert (own.pki / "ca.key").read_bytes() == (head.pki / "ca.key").read_bytes()
    assert (own.pki / "admin.crt").exists()
    with pytest.raises(JoinRefused, match="cp2 has joined already"):
        await joined(head, joiner(tmp_path / "q" / "sk8", "cp2", PLANE), monkeypatch)
    JoinLedger(head).invite("cp2")
    again = await joined(head, joiner(tmp_path / "q" / "sk8", "cp2", PLANE), monkeypatch)
    assert not again.state_bootstrap, "a disk that was replaced must not found the store a second time"


async def test_an_answer_that_was_lost_is_had_again(head, tmp_path, monkeypatch) -> None:
    who = joiner(tmp_path / "p" / "sk8", "cp2", PLANE)
    with monkeypatch.context() as patch:
        patch.setattr(joining, "_install", lambda *_: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            await joined(head, who, monkeypatch)
    machine = await joined(head, who, monkeypatch)
    assert machine.state_bootstrap


async def test_another_ca_than_the_pinned_one_hears_no_token(head, tmp_path, monkeypatch) -> None:
    wrong = replace(ticket(head), pin="sha256:" + "0" * 64)
    with pytest.raises(JoinRefused, match="another cluster, or somebody between"):
        await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch, wrong)


async def test_a_second_ca_behind_the_pinned_one_is_refused(head, tmp_path, monkeypatch) -> None:
    wanted = ticket(head)
    real, evil = (head.pki / "ca.crt").read_bytes(), new_ca("evil", identity.utcnow()).cert
    (head.pki / "ca.crt").write_bytes(real + evil)  # what somebody between would answer
    with pytest.raises(JoinRefused, match="2 certificates, not one"):
        await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch, wanted)
    assert not (tmp_path / "w" / "sk8" / "join.json").exists(), "nothing was asked"


async def test_only_where_it_was_invited_a_control_plane_is_admitted(head, tmp_path, monkeypatch) -> None:
    base = tmp_path / "p" / "sk8"
    token = JoinLedger(head).add_token()
    await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    await joined(head, joiner(base, "cp2", PLANE), monkeypatch)
    await joined(head, joiner(tmp_path / "r" / "sk8", "cp3", THIRD), monkeypatch)
    second = JoinLedger(load_cluster(base))
    assert second.machines() == {"cp1": HEAD, "w1": WORKER, "cp2": PLANE}

    def admit(with_: str) -> Admission:  # the third's disk was replaced
        return second.admit(with_, MachineSpec("cp3", THIRD, True), {"node": b"new"}, THIRD, 0.0)

    with pytest.raises(PkiError, match="not known here"):
        admit(token)
    with pytest.raises(PkiError, match="cp3 has joined already"):
        admit(second.add_token())
    second.invite("cp3")
    assert not admit(second.add_token()).founding


async def test_a_control_plane_that_renews_is_sent_no_ca_key(head, tmp_path, monkeypatch) -> None:
    machine = await joined(head, joiner(tmp_path / "p" / "sk8", "cp2", PLANE), monkeypatch)
    before = (machine.pki / "node.crt").read_bytes()
    only_head = replace(load_cluster(tmp_path / "p" / "sk8"), machines=(head.spec("cp1"),))
    await joining.renew(only_head, machine)
    assert (machine.pki / "node.crt").read_bytes() != before
    assert not [name for name in joining.AUTHORITY_FILES if (machine.pki / name).exists()]


async def test_a_machine_renews_under_its_own_certificate_alone(head, tmp_path, monkeypatch, nodes) -> None:
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    before = (machine.pki / "node.crt").read_bytes()
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    nodes["w1"] = Known((WORKER, "w1"))
    await joining.renew(only_head, machine)
    assert (machine.pki / "node.crt").read_bytes() != before
    assert identity.is_complete(load_machine(tmp_path / "w" / "sk8", "w1"))
    del nodes["w1"]  # forgotten at another control plane: this one's ledger still has the name
    assert "w1" in JoinLedger(head).machines()
    with pytest.raises(JoinRefused, match="only a machine that joined and is not forgotten"):
        await joining.renew(only_head, machine)


async def test_a_worker_renews_where_it_did_not_join(head, tmp_path, monkeypatch, nodes) -> None:
    """It joined at a control plane that is lost: this one's ledger does not have it, but its Node is there."""
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    JoinLedger(head).forget("w1")
    nodes["w1"] = Known((WORKER, "w1"))
    before = (machine.pki / "node.crt").read_bytes()
    await joining.renew(only_head, machine)
    assert (machine.pki / "node.crt").read_bytes() != before
    assert machine_address(x509.load_pem_x509_certificate((machine.pki / "node.crt").read_bytes())) == WORKER
    nodes["w1"] = Known((THIRD,))  # another machine has joined with its name
    with pytest.raises(JoinRefused, match="only a machine that joined"):
        await joining.renew(only_head, machine)


async def test_a_name_that_was_joined_again_elsewhere_is_its_nodes(head, tmp_path, monkeypatch, nodes) -> None:
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    ledger = JoinLedger(head)
    ledger.forget("w1")
    ledger.admit(ledger.add_token(), MachineSpec("w1", OTHER, False), {}, OTHER, 0.0)
    nodes["w1"] = Known((WORKER, "w1"))
    before = (machine.pki / "node.crt").read_bytes()
    await joining.renew(only_head, machine)
    assert (machine.pki / "node.crt").read_bytes() != before


async def test_who_was_forgotten_renews_nothing_though_its_kubelet_made_its_node_again(
    head, tmp_path, monkeypatch, nodes
) -> None:
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    made = made_at(x509.load_pem_x509_certificate((machine.pki / "node.crt").read_bytes()))
    nodes["w1"] = Known((WORKER, "w1"), forgotten=made + 60)
    with pytest.raises(JoinRefused, match="only a machine that joined and is not forgotten"):
        await joining.renew(only_head, machine)
    nodes["w1"] = Known((WORKER, "w1"), forgotten=made - 60)  # and joined again since
    await joining.renew(only_head, machine)


@pytest.mark.parametrize("ahead_s", [0, 120])
async def test_who_joins_again_counts_whatever_clock_forgot_it(head, tmp_path, monkeypatch, nodes, ahead_s) -> None:
    """In the very second, and by a clock that is ahead: its certificates would be void for all of their year."""
    nodes["w1"] = Known((WORKER, "w1"), forgotten=float(int(time.time()) + ahead_s))
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    for _ in range(2):
        for name in ("node.crt", "proxy.crt"):
            certificate = x509.load_pem_x509_certificate((machine.pki / name).read_bytes())
            assert counts(certificate.not_valid_before_utc.timestamp(), nodes["w1"].forgotten)
        assert identity.is_complete(machine)
        await joining.renew(only_head, machine)


async def test_who_was_forgotten_too_far_ahead_is_told_of_the_clocks(head, tmp_path, monkeypatch, nodes) -> None:
    nodes["w1"] = Known((), forgotten=time.time() + 3600)
    with pytest.raises(JoinRefused, match="set the control planes' clocks"):
        await joined(head, joiner(tmp_path / "w" / "sk8", "w1", WORKER), monkeypatch)


async def test_an_api_that_is_silent_proves_nothing(head, tmp_path, monkeypatch) -> None:
    machine = await joined(head, joiner(tmp_path / "w" / "sk8", "silent", WORKER), monkeypatch)
    only_head = replace(load_cluster(tmp_path / "w" / "sk8"), machines=(head.spec("cp1"),))
    with pytest.raises(JoinRefused, match="whether silent is a node cannot be told now: the API is silent"):
        await joining.renew(only_head, machine)


async def test_a_users_certificate_of_a_machines_name_opens_nothing(head, tmp_path, monkeypatch) -> None:
    machine = await joined(head, joiner(tmp_path / "p" / "sk8", "cp2", PLANE), monkeypatch)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = request_pem("system:node:cp2", ["system:nodes"], key=key)
    usages = (signers.SIGNATURE, signers.CLIENT_AUTH)
    (machine.pki / "node.crt").write_bytes(Authority(head).sign(signers.KUBELET_CLIENT, pem, usages, 3600))
    (machine.pki / "node.key").write_bytes(_key_pem(key))
    only_head = replace(load_cluster(tmp_path / "p" / "sk8"), machines=(head.spec("cp1"),))
    with pytest.raises(JoinRefused, match="only a machine that joined and is not forgotten"):
        await joining.renew(only_head, machine)


async def test_who_is_refused(head, tmp_path, monkeypatch) -> None:
    base = tmp_path / "w" / "sk8"
    for token, why in ((new_token(), "not known here"), ("rubbish", "not known here")):
        with pytest.raises(JoinRefused, match=why):
            await joined(head, joiner(base, "w1", WORKER), monkeypatch, ticket(head, token))
    old = JoinLedger(head).add_token(expires=1.0)
    with pytest.raises(JoinRefused, match="expired"):
        await joined(head, joiner(base, "w1", WORKER), monkeypatch, ticket(head, old))
    with pytest.raises(JoinRefused, match="no host name"):
        await joined(head, joiner(base, "W_1", WORKER), monkeypatch)
    with pytest.raises(JoinRefused, match="name cp2 is used twice"):
        await joined(head, joiner(base, "cp2", WORKER), monkeypatch)


def test_a_name_belongs_to_its_address_until_it_is_forgotten(tmp_path: Path) -> None:
    ledger = JoinLedger(cluster(tmp_path / "head" / "sk8", 6391))
    token = ledger.add_token()

    def admit(ip: str, source: str) -> None:
        ledger.admit(token, MachineSpec("w1", ip, False), {}, source, 0.0)

    admit(WORKER, WORKER)
    admit(WORKER, WORKER)
    with pytest.raises(PkiError, match=f"{WORKER} has joined as w1 already"):
        admit("127.0.0.4", "127.0.0.4")
    with pytest.raises(PkiError, match="came from"):
        admit(WORKER, "127.0.0.4")
    ledger.forget("w1")
    admit("127.0.0.4", "127.0.0.4")
    with pytest.raises(ConfigError):
        ledger.invite("w1")


async def test_the_port_shows_a_certificate_that_came_while_it_listens(tmp_path, unused_tcp_port) -> None:
    made = await asyncio.to_thread(cluster, tmp_path / "sk8", unused_tcp_port)
    machine = made.machine("cp1")
    server = JoinServer(made, machine)
    running = asyncio.create_task(server.run())

    async def shown() -> bytes:
        context = ssl.create_default_context(cafile=str(machine.pki / "ca.crt"))
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await CONNECT(HEAD, made.join_port, ssl=context)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return writer.get_extra_info("ssl_object").getpeercert(True)

    before = await shown()
    Authority(made).invite(machine)
    Authority(made).admit_itself(machine)
    server.context.load_cert_chain(machine.pki / "node.crt", machine.pki / "node.key")  # as Renewal does
    assert await shown() != before
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
