"""`sk8 member` on a running store of three: added, promoted, removed, and replaced after a lost disk.

The members and the Supervisor are the actors' parts as processes; what operators see comes from the command line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import REPOSITORY, ControlPlane, eventually, new_config
from tests.support.ports import free_ports

Listed = list[dict[str, Any]]
FOUNDERS = [(1, "m1"), (2, "m2"), (3, "m3")]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(new_config(tmp_path / "sk8", 61))
    plane.found()
    plane.start_all("state")
    try:
        yield plane
    finally:
        plane.stop()


class Members:
    """The members as `sk8 member` tells of them."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def refused(self, *argv: str) -> str:
        """What it says on standard error."""
        done = self._plane.sk8("member", *argv)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def ids(self, *argv: str) -> list[int]:
        return [member["id"] for member in self._plane.sk8_json("member", *argv) or []]

    def listed(self) -> Listed:
        return self._plane.sk8_json("member", "list") or []

    def until_vote(self, wanted: list[tuple[int, str]], what: str) -> None:
        eventually(lambda: voters(self.listed()), lambda found: found == wanted, what=what)

    def until_equal(self) -> None:
        """Every member has the same records."""
        hashes = lambda: {row["hash"] for row in self._plane.sk8_json("store", "hash") or []}  # noqa: E731
        eventually(hashes, lambda found: len(found) == 1, what="all members have one hash")


@pytest.fixture
def members(plane: ControlPlane) -> Members:
    made = Members(plane)
    made.until_vote(FOUNDERS, "three members serve")
    plane.forget_bootstrap()
    return made


def voters(members: Listed) -> list[tuple[int, str]]:
    return [(m["id"], m["name"]) for m in members if not m["is_learner"] and m["status"] == "started"]


def test_a_member_whose_disk_was_lost_is_replaced_as_a_learner(plane: ControlPlane, members: Members) -> None:
    plane.start("supervisor", "m1")
    plane.kill("state", "m3")
    plane.wipe("m3")
    plane.start("state", "m3")
    members.until_vote([(1, "m1"), (2, "m2"), (4, "m3")], "m3 votes again, as a new member")
    assert "joins the store as member 4" in plane.log("state", "m3")
    log = plane.log("supervisor", "m1")
    steps = [log.index(step) for step in ("Remove(member_id=3", "AddLearner(member_id=4", "Promote(member_id=4")]
    assert steps == sorted(steps)
    members.until_equal()

    # An operator takes a member out whose disk is well: what it knew is kept aside, and it too comes back as a new one.
    assert members.ids("remove", "m2") == [1, 4]
    members.until_vote([(1, "m1"), (4, "m3"), (5, "m2")], "m2 votes again")
    assert (plane.machine("m2").state_dir / "retired-1" / "identity.json").exists()
    assert "member not found" in members.refused("remove", "3")


def test_a_member_is_added_promoted_and_removed_by_hand(plane: ControlPlane, members: Members, tmp_path: Path) -> None:
    peer_port, client_port = free_ports(2)
    newcomer = ["127.0.0.1", "--peer-port", str(peer_port), "--client-port", str(client_port)]
    assert members.ids("add", *newcomer) == [1, 2, 3, 4]
    assert [(m["id"], m["status"]) for m in members.listed() if m["is_learner"]] == [(4, "silent")]
    for arguments, message in (
        (["add", *newcomer], "Peer URLs already exists"),
        (["add", "127.0.0.2"], "too many learner members"),
        (["promote", "4"], "in sync with leader"),
        (["promote", "m1"], "can only promote a learner"),
        (["remove", "9"], "the members are 1 (m1), 2 (m2), 3 (m3), 4 (127.0.0.1)"),
    ):
        assert message in members.refused(*arguments)
    assert voters(members.listed()) == FOUNDERS

    config = _joining(plane, tmp_path, peer_port, client_port)
    process = subprocess.Popen([sys.executable, "-m", "raft", "--config", str(config)], cwd=REPOSITORY)
    try:
        eventually(lambda: members.ids("promote", "4"), bool, what="the learner has caught up and is promoted")
        assert voters(members.listed()) == [*FOUNDERS, (4, "127.0.0.1")]
        members.until_equal()
        assert members.ids("remove", "4") == [1, 2, 3]
        assert process.wait(60) == 1, "a member that was removed stops"
    finally:
        process.kill()
        process.wait()
    assert members.ids("add", *newcomer)[3] > 4, "an id never comes back"


def _joining(plane: ControlPlane, directory: Path, peer_port: int, client_port: int) -> Path:
    """The configuration of a member 4 outside of the cluster's machines, with m1's keys."""
    config, pki = plane.config, plane.machine("m1").pki
    members = {m.id: (m.ip, config.state_peer_port, config.state_client_port) for m in config.first_members()}
    members[4] = ("127.0.0.1", peer_port, client_port)
    document = {
        "dir": str(directory / "four"),
        "host": "127.0.0.1",
        "peer_port": peer_port,
        "client_port": client_port,
        "metrics": None,
        "peer_tls": {"cert": f"{pki}/store-peer.crt", "key": f"{pki}/store-peer.key", "ca": f"{pki}/ca.crt"},
        "join": {"cluster_id": config.cluster_id, "member_id": 4, "members": members},
    }
    path = directory / "four.json"
    path.write_text(json.dumps(document))
    return path
