"""Kubeconfig: ours in, ours out, theirs untouched."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli import kubeconfig
from cluster.cli.kubeconfig import Access, KubeconfigError, merged, without

ACCESS = Access("https://127.0.0.1:6443", b"ca", b"cert", b"key")
THEIRS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "prod", "cluster": {"server": "https://prod", "insecure-skip-tls-verify": True}}],
    "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "me", "namespace": "shop"}}],
    "users": [{"name": "me", "user": {"exec": {"command": "aws", "args": ["eks", "get-token"], "env": None}}}],
    "preferences": {"colors": True},
    "current-context": "prod",
}


def test_ours_goes_in_beside_theirs_and_comes_out_without_a_trace() -> None:
    before = copy.deepcopy(THEIRS)
    during = merged(THEIRS, ACCESS)
    assert during["current-context"] == "sk8"
    assert [c["name"] for c in during["clusters"]] == ["prod", "sk8"]
    assert during["users"][0] == THEIRS["users"][0] and during["preferences"] == {"colors": True}
    assert without(during) == before == THEIRS


def test_merging_twice_still_remembers_the_first_context() -> None:
    assert without(merged(merged(THEIRS, ACCESS), ACCESS)) == THEIRS


def test_a_context_chosen_meanwhile_stays_current() -> None:
    during = merged(THEIRS, ACCESS) | {"current-context": "prod"}
    assert without(during)["current-context"] == "prod"


def test_a_remembered_context_that_is_gone_is_not_restored() -> None:
    during = merged(THEIRS, ACCESS)
    during["contexts"] = during["contexts"][1:]
    assert without(during)["current-context"] == ""


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
NAMES = st.lists(TEXT.filter(lambda t: t not in ("sk8", "sk8-admin")), unique=True, max_size=4)


@given(NAMES, NAMES, NAMES, st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.booleans(), st.none())))
def test_any_other_content_survives(clusters: list[str], contexts: list[str], users: list[str], value: Any) -> None:
    doc: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    for key, kind, names in (
        ("clusters", "cluster", clusters),
        ("contexts", "context", contexts),
        ("users", "user", users),
    ):
        doc[key] = [{"name": n, kind: value} for n in names]
    doc["current-context"] = contexts[0] if contexts else ""
    during = yaml.safe_load(yaml.safe_dump(merged(doc, ACCESS), sort_keys=False))
    assert without(during) == doc


def test_files_are_private_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "kube" / "config"
    kubeconfig.install(path, ACCESS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(path.read_text())["current-context"] == "sk8"
    assert kubeconfig.uninstall(path)
    assert not path.exists() and not kubeconfig.uninstall(path)


def test_others_files_survive_and_damaged_ones_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(THEIRS, sort_keys=False))
    kubeconfig.install(path, ACCESS)
    assert kubeconfig.uninstall(path)
    assert yaml.safe_load(path.read_text()) == THEIRS
    for damaged in ("{", "- a list", "kind: Secret"):
        path.write_text(damaged)
        with pytest.raises(KubeconfigError):
            kubeconfig.install(path, ACCESS)
        assert path.read_text() == damaged
    assert [p.name for p in tmp_path.iterdir()] == ["config"]


def test_which_file(tmp_path: Path) -> None:
    there = tmp_path / "b"
    there.write_text("")
    listed = f"{tmp_path / 'a'}:{there}:{tmp_path / 'c'}"
    assert kubeconfig.target({"KUBECONFIG": listed}) == there
    assert kubeconfig.target({"KUBECONFIG": f"{tmp_path / 'a'}:{tmp_path / 'c'}"}) == tmp_path / "c"
    assert kubeconfig.target({"HOME": str(tmp_path)}) == tmp_path / ".kube" / "config"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_stays_theirs(tmp_path: Path) -> None:
    """Regression: `sudo sk8 up` took the user's kubeconfig away from them."""
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(THEIRS))
    os.chown(file, 1234, 1235)
    kubeconfig.install(file, ACCESS)
    assert kubeconfig.uninstall(file)
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (1234, 1235, 0o600)
