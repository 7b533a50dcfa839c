"""A certificate made before its machine was forgotten opens nothing; a younger one, and everybody else's, does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cluster.api import forgotten
from cluster.api.meta import rfc3339
from cluster.apiserver.authn import identity_of
from tests.support.apiserver_harness import edge

_MAPS = f"/api/v1/namespaces/{forgotten.NAMESPACE}/configmaps"
_MERGE = {"Content-Type": "application/merge-patch+json"}
_DAY_S = 86400.0


@pytest.fixture
async def server(pki):
    for name in ("w1", "w2"):
        pki.issue(name, f"system:node:{name}", ("system:nodes",))  # valid from a day ago on
    async with edge(pki) as running:
        await running.call("POST", "/api/v1/namespaces", {"metadata": {"name": forgotten.NAMESPACE}})
        yield running


async def mark(server, **when: str) -> None:
    await server.call("POST", _MAPS, {"metadata": {"name": forgotten.NAME}})
    got = await server.call("PATCH", f"{_MAPS}/{forgotten.NAME}", {"data": when}, headers=_MERGE)
    assert got.status == 200, got.body


async def status(server, user: str) -> int:
    """Of a look at one's own Node, which is not there: 404 for one who may look."""
    return int((await server.call("GET", f"/api/v1/nodes/{user}", cert=user)).status)


async def test_a_machine_that_was_forgotten_is_nobody_from_then_on(server) -> None:
    assert (await status(server, "w1"), await status(server, "w2")) == (404, 404)
    await mark(server, w1=rfc3339(time.time()))
    got = await server.call("GET", "/api/v1/nodes/w1", cert="w1")
    assert (got.status, got.json["reason"]) == (401, "Unauthorized")
    assert await status(server, "w2") == 404
    node = {"metadata": {"name": "w1"}}
    assert (await server.call("POST", "/api/v1/nodes", node, cert="w1")).status == 401, "its Node stays deleted"


async def test_one_that_joined_again_since_is_let_in(server) -> None:
    await mark(server, w1=rfc3339(time.time() - 2 * _DAY_S))
    assert await status(server, "w1") == 404


async def test_what_is_no_time_forgets_nobody(server) -> None:
    await mark(server, w1="yesterday")
    assert await status(server, "w1") == 404


async def test_a_token_speaks_for_itself_beside_a_void_certificate(pki, tmp_path) -> None:
    pki.issue("w1", "system:node:w1", ("system:nodes",))
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("sesame,root,0,system:masters\n")
    async with edge(pki, token_auth_file=str(tokens)) as server:
        await server.call("POST", "/api/v1/namespaces", {"metadata": {"name": forgotten.NAMESPACE}})
        await mark(server, w1=rfc3339(time.time()))
        statuses = {"Bearer sesame": 404, "Bearer nonsense": 401}
        for authorization, wanted in statuses.items():
            headers = {"Authorization": authorization}
            assert (await server.call("GET", "/api/v1/nodes/w1", cert="w1", headers=headers)).status == wanted


def certificate(name: str, group: str, *dns: str) -> dict[str, Any]:
    subject = ((("organizationName", group),), (("commonName", name),))
    alternative = tuple(("DNS", n) for n in dns)
    dates = {"notBefore": "Nov 27 12:00:00 2026 GMT", "notAfter": "Nov 27 12:00:00 2027 GMT"}
    return {"subject": subject, "subjectAltName": alternative, **dates}


@pytest.mark.parametrize(
    ("shown", "machine"),
    [
        (certificate("system:node:w1", "system:nodes", "w1"), "w1"),
        (certificate("system:kube-proxy", "system:node-proxier", "w1"), "w1"),
        (certificate("system:kube-proxy", "system:node-proxier"), ""),
        (certificate("alice", "dev", "w1"), ""),
    ],
)
def test_whose_machine_a_certificate_is(shown: dict[str, Any], machine: str) -> None:
    found = identity_of(shown)
    assert found is not None and found.machine == machine and found.not_before == 1795780800.0
