"""Bootstrap tokens end in time, and sign what joining machines trust."""

from __future__ import annotations

import base64

import jwt
import pytest

from cluster.api.meta import rfc3339
from cluster.controllers.bootstrap_tokens import BootstrapSigner, TokenCleaner
from cluster.machinery.client import Obj
from tests.support.controller_world import World

TOKEN = "0123456789abcdef"


def token(token_id: str, expiration: str = "", **usages: str) -> Obj:
    data = {"token-id": token_id, "token-secret": TOKEN, "usage-bootstrap-signing": "true", **usages}
    if expiration:
        data["expiration"] = expiration
    return {
        "metadata": {"name": f"bootstrap-token-{token_id}", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
    }


async def test_an_expired_token_is_deleted_and_others_stay() -> None:
    async with World(TokenCleaner) as w:
        await w.namespace("kube-system")
        await w.create("secrets", token("aaaaaa", rfc3339(w.clock() + 60)))
        await w.create("secrets", token("bbbbbb"))
        other = {
            "metadata": {"name": "x", "namespace": "kube-system"},
            "stringData": {"expiration": "2020-01-01T00:00:00Z"},
        }
        await w.create("secrets", other)
        await w.tick(30)
        assert len(await w.items("secrets")) == 3
        await w.tick(31)
        assert [s["metadata"]["name"] for s in await w.items("secrets")] == ["bootstrap-token-bbbbbb", "x"]


async def test_cluster_info_is_signed_by_tokens_that_may() -> None:
    async with World(BootstrapSigner) as w:
        for name in ("kube-system", "kube-public"):
            await w.namespace(name)
        meta = {"name": "cluster-info", "namespace": "kube-public"}
        await w.create("configmaps", {"metadata": meta, "data": {"kubeconfig": "apiVersion: v1\n"}})
        await w.create("secrets", token("aaaaaa", rfc3339(w.clock() + 60)))
        await w.create("secrets", token("bbbbbb", **{"usage-bootstrap-signing": "false"}))
        await w.settle()
        data = (await w.client.get("configmaps", "cluster-info", "kube-public"))["data"]
        assert set(data) == {"kubeconfig", "jws-kubeconfig-aaaaaa"}
        header, _, signature = data["jws-kubeconfig-aaaaaa"].split(".")
        payload = base64.urlsafe_b64encode(data["kubeconfig"].encode()).rstrip(b"=").decode()
        with pytest.warns(jwt.InsecureKeyLengthWarning):  # a token's secret has 16 characters
            content = jwt.PyJWS().decode(f"{header}.{payload}.{signature}", TOKEN, ["HS256"])
        assert content == data["kubeconfig"].encode()
        await w.tick(61)
        assert set((await w.client.get("configmaps", "cluster-info", "kube-public"))["data"]) == {"kubeconfig"}
