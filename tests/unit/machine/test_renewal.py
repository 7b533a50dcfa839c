"""What sk8-machine renews beside its own certificates: the administrator's, where the CA is."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.machine import identity, pki, renewal
from cluster.machine.config import ClusterConfig
from cluster.machine.machine import Machine
from cluster.machine.machine_config import MachineConfig
from cluster.machine.renewal import Renewal


def first_of_vms(tmp_path: Path) -> tuple[ClusterConfig, MachineConfig]:
    config = replace(ClusterConfig.local(1, 1), provider="vm", base_dir=str(tmp_path / "sk8"))
    authority, machine = identity.Authority(config), config.machine("m1")
    authority.create()
    authority.provision(machine)
    authority.admit_itself(machine)
    return config, machine


def renewal_of(config: ClusterConfig, machine: MachineConfig) -> Renewal:
    """The one that sk8-machine would run."""
    made = Machine(config, machine)
    for part in made._parts():
        part.close()
    return made._renewal


def admin(config: ClusterConfig) -> pki.KeyPair:
    return pki.KeyPair((config.pki / "admin.crt").read_bytes(), (config.pki / "admin.key").read_bytes())


def age(config: ClusterConfig) -> pki.KeyPair:
    """The administrator's certificate is in its last third from now on."""
    ca = pki.KeyPair((config.pki / "ca.crt").read_bytes(), (config.pki / "ca.key").read_bytes())
    old = pki.issue(ca, pki.ADMIN, identity.utcnow() - dt.timedelta(days=pki.LEAF_DAYS * 3 / 4))
    (config.pki / "admin.key").write_bytes(old.key)
    (config.pki / "admin.crt").write_bytes(old.cert)
    return old


async def test_the_administrators_certificate_is_renewed_while_a_vm_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended after a year, and with it renewal at a control plane where a worker had not joined."""
    monkeypatch.setattr(renewal, "CHECK_S", 0.01)
    config, machine = first_of_vms(tmp_path)
    kept = {f.name: f.read_bytes() for f in config.pki.iterdir() if f.is_file() and not f.name.startswith("admin.")}
    task = asyncio.create_task(renewal_of(config, machine).run())
    try:
        async with asyncio.timeout(60):
            for _ in range(2):
                old = age(config)
                while (new := admin(config)).cert == old.cert:
                    await asyncio.sleep(0.01)
                assert pki.fits(new) and not pki.needs_renewal(new.cert, identity.utcnow())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert kept == {name: (config.pki / name).read_bytes() for name in kept}


async def test_a_ca_key_that_was_taken_away_is_not_made_anew(tmp_path: Path) -> None:
    config, _ = first_of_vms(tmp_path)
    age(config)
    (config.pki / "ca.key").unlink()
    with pytest.raises(OSError, match=r"ca\.key"):
        identity.Authority(config).renew_admin()
    assert not (config.pki / "ca.key").exists()


def test_local_machines_and_workers_hold_no_ca(tmp_path: Path) -> None:
    config, machine = first_of_vms(tmp_path)
    assert renewal_of(config, machine)._renew_admin is not None
    assert renewal_of(replace(config, provider="local"), machine)._renew_admin is None
