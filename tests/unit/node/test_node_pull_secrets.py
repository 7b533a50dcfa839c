"""Credentials and mirrors of images."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cluster.node.pull_secrets import credentials, mirrored, split_registry


def secret(**auths: dict[str, str]) -> dict[str, Any]:
    return {"data": {".dockerconfigjson": base64.b64encode(json.dumps({"auths": auths}).encode()).decode()}}


def auth(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:pa:ss".encode()).decode()}


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("nginx", ("docker.io", "library/nginx")),
        ("mine/app:1", ("docker.io", "mine/app:1")),
        ("index.docker.io/mine/app", ("docker.io", "mine/app")),
        ("localhost/app", ("localhost", "app")),
        ("reg:5000/a/b@sha256:1", ("reg:5000", "a/b@sha256:1")),
    ],
)
def test_registries(image: str, parts: tuple[str, str]) -> None:
    assert split_registry(image) == parts


def test_the_most_specific_fitting_credential_comes_first() -> None:
    secrets = [
        secret(**{"reg.io": auth("all"), "*.io": auth("wild"), "other.io": auth("other"), "a.reg.io": auth("sub")}),
        secret(**{"https://reg.io/team": {"username": "team", "password": "x"}}),
    ]
    assert [c.username for c in credentials("reg.io/team/app:1", secrets)] == ["team", "all", "wild"]
    assert [c.username for c in credentials("reg.io/else", secrets)] == ["all", "wild"]
    assert credentials("reg.io/else", secrets)[0].password == "pa:ss"
    assert credentials("nowhere.org/x", secrets) == []


def test_docker_hubs_old_key_and_the_old_format() -> None:
    assert [c.username for c in credentials("nginx", [secret(**{"https://index.docker.io/v1/": auth("hub")})])] == [
        "hub"
    ]
    old = {"data": {".dockercfg": base64.b64encode(json.dumps({"reg.io": auth("old")}).encode()).decode()}}
    assert [c.username for c in credentials("reg.io/x", [old])] == ["old"]


def test_what_cannot_be_read_is_passed_over_and_nothing_shows_a_password() -> None:
    broken = [{"data": {".dockerconfigjson": "e30"}}, {"data": {".dockercfg": "W10="}}, {}, secret(r={"auth": "!"})]
    assert credentials("r/x", broken) == []
    assert "pa:ss" not in repr(credentials("reg.io/x", [secret(**{"reg.io": auth("u")})]))


def test_mirrors() -> None:
    mirrors = {"docker.io": ["m1:5000", "m2:5000/hub/"], "*": ["all:5000"]}
    assert mirrored("nginx:1", mirrors) == ["m1:5000/library/nginx:1", "m2:5000/hub/library/nginx:1"]
    assert mirrored("quay.io/x", mirrors) == ["all:5000/x"]
    assert mirrored("quay.io/x", {}) == []
