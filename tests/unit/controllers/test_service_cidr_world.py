"""A ServiceCIDR is protected, then ready; deleted, it waits for the addresses that only it has."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.controllers.service_cidr import CIDRS, FINALIZER, ServiceCidrController, orphaned
from tests.support.controller_world import World


def _cidr(name: str, *cidrs: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


async def test_ready_once_protected_and_gone_when_nothing_needs_it() -> None:
    async with World(ServiceCidrController) as w:
        await w.create(CIDRS, _cidr("kubernetes", "10.96.0.0/16"))
        await w.create(CIDRS, _cidr("more", "10.200.0.0/24"))
        await w.settle()
        more = await w.client.get(CIDRS, "more")
        assert more["metadata"]["finalizers"] == [FINALIZER]
        assert more["status"]["conditions"][0]["status"] == "True"

        spec = {"ports": [{"port": 80}], "clusterIP": "10.200.0.7"}
        await w.create("namespaces", {"metadata": {"name": "default"}})
        await w.create("services", {"metadata": {"name": "s", "namespace": "default"}, "spec": spec})
        await w.client.delete(CIDRS, "more")
        await w.settle()
        condition = (await w.client.get(CIDRS, "more"))["status"]["conditions"][0]
        assert (condition["status"], condition["reason"]) == ("False", "Terminating")

        await w.client.delete("services", "s", "default")
        await w.settle()
        with pytest.raises(ApiError, match="not found"):
            await w.client.get(CIDRS, "more")


def test_an_address_that_another_range_has_keeps_nobody() -> None:
    going, other = _cidr("a", "10.0.0.0/24"), _cidr("b", "10.0.0.0/25", "fd00::/64")
    assert orphaned(going, [other], ["10.0.0.3", "10.0.0.200", "10.1.0.1", "fd00::1"]) == ["10.0.0.200"]
    assert orphaned(going, [], ["10.0.0.3"]) == ["10.0.0.3"]
