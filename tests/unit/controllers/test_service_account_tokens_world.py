"""Secrets of type kubernetes.io/service-account-token: filled for an account that is there, gone with it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from cluster.apiserver.tokens import InvalidToken, TokenSigner, TokenVerifier
from cluster.controllers.env import Outside
from cluster.controllers.service_account_tokens import ServiceAccountTokenController
from cluster.machine import pki
from cluster.machinery.client import Obj
from tests.support.controller_world import World
from tests.support.fake_clock import FakeClock

ISSUER = "https://kubernetes.default.svc"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"


def token_secret(account: str, name: str = "robot-token") -> Obj:
    meta = {"name": name, "namespace": "default", "annotations": {NAME: account}}
    return {"metadata": meta, "type": "kubernetes.io/service-account-token"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    private, public = pki.new_service_account_key()
    (tmp_path / "sa.key").write_bytes(private)
    (tmp_path / "sa.pub").write_bytes(public)
    return tmp_path


async def test_a_secret_gets_the_token_of_its_account(keys: Path) -> None:
    clock = FakeClock()
    signer = TokenSigner(str(keys / "sa.key"), ISSUER, clock)
    async with World(ServiceAccountTokenController, clock=clock, outside=Outside(tokens=signer)) as w:
        await w.namespace()
        account = await w.create("serviceaccounts", {"metadata": {"name": "robot", "namespace": "default"}})
        await w.create("secrets", token_secret("robot"))
        await w.settle()
        (secret,) = await w.items("secrets")
        assert secret["metadata"]["annotations"][UID] == account["metadata"]["uid"]
        data = {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}
        assert data["namespace"] == "default"
        claims = TokenVerifier([str(keys / "sa.pub")], ISSUER, [ISSUER], clock).verify(data["token"])
        assert (claims.name, claims.uid, claims.expires) == ("robot", account["metadata"]["uid"], float("inf"))
        await w.tick(3600)
        assert await w.items("secrets") == [secret]
        await w.client.delete("serviceaccounts", "robot", "default")
        await w.settle()
        assert not await w.items("secrets")


async def test_a_secret_of_no_account_or_of_an_earlier_one_is_deleted(keys: Path) -> None:
    signer = TokenSigner(str(keys / "sa.key"), ISSUER, FakeClock())
    async with World(ServiceAccountTokenController, outside=Outside(tokens=signer)) as w:
        await w.namespace()
        await w.create("secrets", token_secret("nobody"))
        earlier = token_secret("default", "earlier")
        earlier["metadata"]["annotations"][UID] = "another"
        await w.create("secrets", earlier)
        await w.create("secrets", {"metadata": {"name": "plain", "namespace": "default"}})
        await w.settle()
        assert [s["metadata"]["name"] for s in await w.items("secrets")] == ["plain"]


def test_a_token_of_another_subject_is_refused(keys: Path) -> None:
    signer = TokenSigner(str(keys / "sa.key"), ISSUER, FakeClock())
    verifier = TokenVerifier([str(keys / "sa.pub")], ISSUER, [ISSUER], FakeClock())
    token = signer.sign_secret("default", "robot", "u", "s")
    assert verifier.verify(token).secret is not None
    claims = {"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:kube-system:root"}
    claims |= {f"kubernetes.io/serviceaccount/{k}": "x" for k in ("namespace", "service-account.name")}
    with pytest.raises(InvalidToken):
        verifier.verify(signer._encode(dict(claims)))
