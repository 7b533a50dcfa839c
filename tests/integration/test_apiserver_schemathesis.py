"""schemathesis on the served OpenAPI documents: no internal error, and what is accepted is valid by the schema.

Bounded and without chance: the same requests each time, some that keep to the schema and some that do not. Names and
namespaces are made good, because a request to a random one says only that there is no such namespace.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="`make bootstrap` installs it")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.support.apiserver_harness import Edge, Pki, edge

EXAMPLES = 8
_LEASES = "/apis/coordination.k8s.io/v1"
# These are what a run of all tests has time for.
OPERATIONS = [
    ("/api/v1", "resourcequotas", "POST"),
    (_LEASES, "leases", "POST"),
    (_LEASES, "leases", "PUT"),
    (_LEASES, "leases", "PATCH"),
]
_QUIET = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def _called(server: Edge, case: Any) -> Any:
    """The answer to a case in which who and where are real, so that the rest is what decides."""
    case.path_parameters["namespace"] = "default"
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "fuzzed"
    case.query.pop("watch", None)  # it would not end
    case.query.pop("dryRun", None)
    case.query.pop("force", None)  # for server-side apply alone
    case.media_type = "application/merge-patch+json" if case.method == "PATCH" else "application/json"
    if isinstance(case.body, dict) and isinstance(case.body.get("metadata", {}), dict):
        metadata = {k: v for k, v in case.body.get("metadata", {}).items() if k in ("labels", "annotations")}
        case.body = {k: v for k, v in case.body.items() if k not in ("kind", "apiVersion")}
        named = {"name": "fuzzed"} if "name" in case.path_parameters else {"generateName": "fuzz-"}
        case.body["metadata"] = {**metadata, **named}
    certificate = (server.pki.path("admin.crt"), server.pki.path("admin.key"))
    return case.call(
        base_url=server.url.replace("127.0.0.1", "localhost"), verify=server.pki.path("ca.crt"), cert=certificate
    )


def _fuzz(server: Edge, document: dict[str, Any], path: str, method: str, mode: GenerationMode) -> list[int]:
    """The codes of all answers."""
    operation = schemathesis.openapi.from_dict(document)[path][method]
    codes: list[int] = []

    @_QUIET
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = _called(server, case)
        codes.append(response.status_code)
        checks = [not_a_server_error]
        if response.status_code < 300:
            checks.append(response_schema_conformance)
        else:
            status = response.json()
            assert (status["kind"], status["code"]) == ("Status", response.status_code), status
        case.validate_response(response, checks=checks)

    run()
    return codes


@pytest.mark.parametrize(("group", "plural", "method"), OPERATIONS)
async def test_no_internal_error_and_no_invalid_object(group: str, plural: str, method: str, tmp_path: Path) -> None:
    async with edge(Pki(tmp_path)) as server:
        document = (await server.call("GET", f"/openapi/v3{group}")).json
        path = f"{group}/namespaces/{{namespace}}/{plural}"
        if method == "PATCH":  # a PUT of a Lease that is not there creates it
            await server.create(path.format(namespace="default"), {"metadata": {"name": "fuzzed"}})
        if method != "POST":
            path += "/{name}"
        kept = await asyncio.to_thread(_fuzz, server, document, path, method, GenerationMode.POSITIVE)
        await asyncio.to_thread(_fuzz, server, document, path, method, GenerationMode.NEGATIVE)
        assert {200, 201} & set(kept), "nothing was accepted, so nothing was tried"
