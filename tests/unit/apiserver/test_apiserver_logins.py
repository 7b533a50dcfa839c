"""OIDC against a local issuer, bootstrap tokens, the static token file."""

from __future__ import annotations

import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from cluster.api.meta import rfc3339
from cluster.apiserver import oidc
from tests.support.apiserver_harness import Edge, Pki, edge
from tests.support.stand_in import listening

REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


class Issuer:
    """Publishes one key, signs with any; counts how often its keys were asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = "one"
        self.asked = 0
        self.extra: list[dict[str, str]] = []  # keys of kinds that nobody reads, before the one that signs

    def app(self) -> web.Application:
        async def discovery(request: web.Request) -> web.Response:
            return web.json_response({"issuer": self.url, "jwks_uri": self.url + "/keys"})

        async def keys(request: web.Request) -> web.Response:
            self.asked += 1
            key = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
            own = {**key, "kid": self.kid, "alg": "RS256", "use": "sig"}
            return web.json_response({"keys": [*self.extra, own]})

        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", discovery)
        app.router.add_get("/keys", keys)
        return app

    def token(self, *, key: Any = None, kid: str = "", **claims: Any) -> str:
        base = {"iss": self.url, "aud": "sk8", "sub": "jane", "exp": time.time() + 60, "groups": ["dev", "ops"]}
        base |= claims
        payload = {k: v for k, v in base.items() if v is not None}
        return jwt.encode(payload, key or self.key, "RS256", headers={"kid": kid or self.kid})


@contextlib.asynccontextmanager
async def issuer(pki: Pki) -> AsyncIterator[Issuer]:
    made = Issuer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.path("server.crt"), pki.path("server.key"))
    async with listening(made.app(), context) as port:
        made.url = f"https://localhost:{port}"
        yield made


@pytest.fixture
async def world(pki: Pki) -> AsyncIterator[tuple[Edge, Issuer]]:
    async with issuer(pki) as made:
        settings = {"oidc_issuer_url": made.url, "oidc_client_id": "sk8", "oidc_groups_claim": "groups"}
        settings |= {"oidc_groups_prefix": "oidc:", "oidc_ca_file": pki.path("ca.crt")}
        async with edge(pki, **settings) as server:
            yield server, made


async def who(server: Edge, token: str) -> Any:
    return await server.call("POST", REVIEW, {}, cert="", headers={"Authorization": f"Bearer {token}"})


async def test_a_token_of_the_issuer(world: tuple[Edge, Issuer]) -> None:
    server, made = world
    user = (await who(server, made.token())).json["status"]["userInfo"]
    assert user["username"] == f"{made.url}#jane"
    assert user["groups"] == ["oidc:dev", "oidc:ops", "system:authenticated"]
    assert (await who(server, made.token(groups="dev"))).json["status"]["userInfo"]["groups"][0] == "oidc:dev"
    assert made.asked == 1


async def test_a_large_key_set_is_read_to_its_end_but_not_without_limit(world: tuple[Edge, Issuer]) -> None:
    server, made = world
    made.extra = [{"kty": "unknown", "kid": str(i), "x": "x" * 1000} for i in range(900)]
    assert (await who(server, made.token())).status == 201
    with pytest.raises(ValueError, match="larger than 1048576 bytes"):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
            made.extra *= 2
            await oidc._json(session, made.url + "/keys")


async def test_tokens_that_are_refused(world: tuple[Edge, Issuer]) -> None:
    server, made = world
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    unsigned = jwt.encode({"iss": made.url, "aud": "sk8", "sub": "jane", "exp": time.time() + 60}, None, "none")
    bad = [
        made.token(exp=time.time() - 5),
        made.token(aud="other"),
        made.token(sub=None),
        made.token(exp=None),
        made.token(groups=[1]),
        made.token(nbf=time.time() + 600),
        made.token(key=other),
        made.token(key=other, kid="unknown"),
        made.token(iss="https://elsewhere"),
        unsigned,
    ]
    for token in bad:
        assert (await who(server, token)).status == 401
    assert made.asked == 1  # a forged key id does not make us ask again at once


async def test_a_bootstrap_token(pki: Pki) -> None:
    now = time.time()
    async with edge(pki, clock=lambda: now) as server:
        data = {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:workers",
            "expiration": rfc3339(now + 3600),
        }
        secret = {
            "metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token",
            "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
        }
        path = "/api/v1/namespaces/kube-system/secrets"
        await server.create(path, secret)
        user = (await who(server, "abcdef.0123456789abcdef")).json["status"]["userInfo"]
        assert user["username"] == "system:bootstrap:abcdef"
        assert user["groups"] == ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]
        for wrong in ("abcdef.0123456789abcdee", "abcdeg.0123456789abcdef"):
            assert (await who(server, wrong)).status == 401
        now += 2 * 3600
        assert (await who(server, "abcdef.0123456789abcdef")).status == 401


async def test_the_token_file(pki: Pki, tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text('s3cret,ann,7,"dev,ops"\n')
    async with edge(pki, token_auth_file=str(file)) as server:
        user = (await who(server, "s3cret")).json["status"]["userInfo"]
        assert (user["username"], user["uid"], user["groups"][:2]) == ("ann", "7", ["dev", "ops"])


def test_settings_that_cannot_work(pki: Pki) -> None:
    for settings in (
        {"oidc_issuer_url": "https://a"},
        {"oidc_issuer_url": "http://a", "oidc_client_id": "x"},
        {"oidc_issuer_url": "https://a", "oidc_client_id": "x", "oidc_signing_algs": ("HS256",)},
        {"oidc_required_claim": ("noequals",)},
    ):
        with pytest.raises(ValueError, match="oidc"):
            pki.config(**settings).validate()
