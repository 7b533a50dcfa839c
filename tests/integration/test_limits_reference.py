"""The limits of the reference's section 8 that one API server and one machine can show: each is reached, and what goes
beyond is refused with what a user would expect. Larger ones (5,000 nodes, 150,000 pods) are workloads of
`benchmarks/schedule.py` and `benchmarks/api.py`; the store's size is tests/unit/raft_server/test_alarms.py."""

from __future__ import annotations

import base64
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.api import validation
from cluster.api.scheme import SCHEME
from cluster.node.admission import reject
from cluster.node.config import KubeletConfig
from tests.support.apiserver_harness import Pki, edge

LIMIT = 1024 * 1024
DEFAULT_PODS = 110


@pytest.mark.parametrize(
    ("plural", "encode"),
    [("configmaps", lambda text: text), ("secrets", lambda text: base64.b64encode(text.encode()).decode())],
)
async def test_a_mebibyte_of_data_and_not_a_byte_more(plural: str, encode: Any, tmp_path: Path) -> None:
    path = f"/api/v1/namespaces/default/{plural}"
    async with edge(Pki(tmp_path)) as server:

        async def sent(method: str, path: str, body: Any, kind: str = "application/json") -> Any:
            large = io.BytesIO(orjson.dumps(body))  # as aiohttp wants it
            return await server.call(method, path, data=large, headers={"Content-Type": kind})

        data = {"a": encode("x" * (LIMIT - 1000)), "b": encode("y" * 1000)}
        made = await sent("POST", path, {"metadata": {"name": "full"}, "data": data})
        assert (made.status, made.json["data"] == data) == (201, True)
        more = await sent("POST", path, {"metadata": {"name": "more"}, "data": {**data, "c": encode("z")}})
        assert (more.status, more.json["reason"]) == (422, "Invalid")
        assert more.json["details"]["causes"][0]["reason"] == "FieldValueTooLong"
        assert f"Too long: may not be more than {LIMIT} bytes" in more.json["message"]
        assert (await server.call("GET", f"{path}/more")).status == 404
        grown = await sent("PATCH", f"{path}/full", {"data": {"c": encode("z")}}, "application/merge-patch+json")
        assert grown.status == 422
        assert (await server.call("GET", f"{path}/full")).json["data"] == data


def test_how_many_pods_a_machine_takes_by_default() -> None:
    assert next(f.default for f in fields(KubeletConfig) if f.name == "max_pods") == DEFAULT_PODS


def test_the_data_of_a_config_map_is_counted_in_bytes() -> None:
    info = SCHEME.named("configmaps")

    def faults(**body: Any) -> list[str]:
        return [str(c) for c in validation.create(info, {"metadata": {"name": "x", "namespace": "default"}, **body})]

    packed = base64.b64encode(b"z" * LIMIT).decode()
    assert faults(binaryData={"a": packed}) == faults(data={"a": "\u00e9" * (LIMIT // 2)}) == []
    assert faults(binaryData={"a": packed}, data={"b": "y"}) and faults(data={"a": "\u00e9" * (LIMIT // 2 + 1)})


@pytest.mark.parametrize("limit", [DEFAULT_PODS, 250])
def test_a_machine_takes_as_many_pods_as_it_says_and_no_more(limit: int) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}
    room = {"cpu": 1000, "memory": 1 << 30, "pods": limit}
    assert reject(pod, [pod] * (limit - 1), room, {}) is None
    refused = reject(pod, [pod] * limit, room, {})
    assert refused == (
        "OutOfpods",
        f"Node didn't have enough resource: pods, requested: 1, used: {limit}, capacity: {limit}",
    )
