"""Who owns an object's replicas, when they are changed through the scale subresource."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.types import Stored

Object = dict[str, Any]

APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
KINDS = ("deployments.apps", "statefulsets.apps", "replicasets.apps")


class Workload:
    """One workload of the bench, and its scale."""

    def __init__(self, bench: Any, resource: str, whole: Object) -> None:
        self.bench, self.info = bench, SCHEME.named(resource)
        self.whole = {**whole, "apiVersion": self.info.api_version, "kind": self.info.kind}

    async def apply(self, manager: str, *, force: bool = False) -> None:
        await self._patch(manager, APPLY, self.whole, "", force)

    async def apply_scale(self, manager: str, replicas: int, *, force: bool = False) -> None:
        await self._patch(manager, APPLY, _scale(replicas), "scale", force)

    async def merge_scale(self, manager: str, patch: Object) -> None:
        await self._patch(manager, MERGE, patch, "scale", False)

    async def replace_scale(self, manager: str, replicas: int, **metadata: Any) -> None:
        body = _scale(replicas)
        body["metadata"].update(metadata)
        ctx = replace(self.bench.ctx, field_manager=manager)
        await self.bench.registry.update(ctx, self.info, "default", "d", body, subresource="scale")

    async def _patch(self, manager: str, media: str, body: Object, subresource: str, force: bool) -> Stored:
        ctx = replace(self.bench.ctx, field_manager=manager)
        out: Stored = await self.bench.registry.patch(
            ctx, self.info, "default", "d", media, body, subresource=subresource, force=force
        )
        return out

    async def replicas(self) -> tuple[int, set[tuple[str, str, str]]]:
        """How many are wanted, and whose that is: manager, operation, subresource."""
        obj = (await self.bench.get(self.info.name, "d")).obj
        owners = {
            (e["manager"], e["operation"], e.get("subresource", ""))
            for e in obj["metadata"]["managedFields"]
            if "f:replicas" in e["fieldsV1"].get("f:spec", {})
        }
        assert all(e["apiVersion"] == self.info.api_version for e in obj["metadata"]["managedFields"])
        return obj["spec"]["replicas"], owners


def _scale(replicas: int) -> Object:
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": replicas},
    }


@pytest.fixture(params=KINDS)
async def workload(bench: Any, make: Any, request: Any) -> Workload:
    made = Workload(bench, request.param, make.deployment(replicas=1))
    await made.apply("applier")
    return made


async def test_replicas_go_from_owner_to_owner(workload: Workload) -> None:
    assert await workload.replicas() == (1, {("applier", "Apply", "")})
    await workload.merge_scale("scaler", {"spec": {"replicas": 5}})
    assert await workload.replicas() == (5, {("scaler", "Update", "scale")})
    with pytest.raises(ApiError, match=r'conflict with "scaler" with subresource "scale" using apps/v1'):
        await workload.apply("applier")
    await workload.apply("applier", force=True)
    assert await workload.replicas() == (1, {("applier", "Apply", "")})


async def test_a_scale_is_applied_like_any_object(workload: Workload) -> None:
    with pytest.raises(ApiError, match=r'conflict with "applier": \.spec\.replicas') as e:
        await workload.apply_scale("other", 17)
    assert e.value.code == 409
    await workload.apply_scale("other", 17, force=True)
    assert await workload.replicas() == (17, {("other", "Apply", "scale")})
    await workload.replace_scale("replacer", 7)
    assert await workload.replicas() == (7, {("replacer", "Update", "scale")})
    await workload.apply_scale("sharer", 7)
    assert await workload.replicas() == (7, {("replacer", "Update", "scale"), ("sharer", "Apply", "scale")})
    await workload.merge_scale("scaler", {"spec": {"replicas": 5}})
    assert await workload.replicas() == (5, {("scaler", "Update", "scale")})


async def test_the_status_of_a_scale_changes_nothing(workload: Workload) -> None:
    before = (await workload.bench.get(workload.info.name, "d")).obj
    await workload.merge_scale("scaler", {"status": {"replicas": 42}})
    assert (await workload.bench.get(workload.info.name, "d")).obj == before


async def test_a_scale_of_another_object_is_refused(workload: Workload) -> None:
    with pytest.raises(ApiError, match="UID in precondition: other, UID in object meta: ") as e:
        await workload.replace_scale("replacer", 7, uid="other")
    assert (e.value.code, e.value.reason) == (409, "Conflict")
    assert (await workload.replicas())[0] == 1
