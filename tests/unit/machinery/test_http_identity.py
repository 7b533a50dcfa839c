"""Over TLS, only an API server is taken for one: not whoever else holds a certificate of the cluster's CA."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from aiohttp import web

from cluster.api.errors import ApiError
from cluster.machine import pki
from cluster.machine.config import ClusterConfig
from cluster.machinery.http_client import HttpClient, HttpConfig

NOW = dt.datetime.now(dt.UTC)


@pytest.mark.parametrize("name", ["apiserver", "node"])
async def test_a_machines_certificate_is_no_api_servers(name: str, tmp_path: Path) -> None:
    """Regression: the name was not looked at, so a worker's own certificate could stand in for an API server's."""
    config = ClusterConfig.local()
    ca = pki.new_ca("sk8-ca", NOW)
    pair = pki.issue(ca, pki.requirement(name, config.spec("m1"), config), NOW)
    for file, data in (("ca.crt", ca.cert), ("tls.crt", pair.cert), ("tls.key", pair.key)):
        (tmp_path / file).write_bytes(data)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"kind": "Status"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        ca_file = str(tmp_path / "ca.crt")
        async with HttpClient(HttpConfig(server=f"https://127.0.0.1:{port}", ca_file=ca_file)) as client:
            if name == "apiserver":
                assert await client.request("GET", "/readyz") == {"kind": "Status"}
                return
            with pytest.raises(ApiError, match="certificate verify failed"):
                await client.request("GET", "/readyz")
    finally:
        await runner.cleanup()
