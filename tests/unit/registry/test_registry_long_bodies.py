"""Long objects: their work is done where others are not held up, and comes to the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.types import RegistryConfig

Object = dict[str, Any]

MAPS = SCHEME.named("configmaps")
MERGE = "application/merge-patch+json"
LONG = {"metadata": {"name": "long"}, "data": {f"key-{i}": "x" * 100 for i in range(1000)}}
SHORT = {"metadata": {"name": "short"}, "data": {"a": "b"}}


class Away:
    """Runs work on the spot, and remembers what came."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, work: Any, *args: Any) -> Any:
        self.seen.append(work.__name__)
        return work(*args)


@pytest.fixture
def away(bench: Any) -> Away:
    made = Away()
    bench.registry.run_long_work(made)
    return made


async def test_what_a_long_body_costs_is_done_away(bench: Any, away: Away) -> None:
    await bench.registry.create(replace(bench.ctx, body_bytes=200), MAPS, "default", SHORT)
    assert away.seen == []
    made = await bench.registry.create(replace(bench.ctx, body_bytes=120_000), MAPS, "default", LONG)
    assert away.seen == ["_creatable", "_prepare_new", "_judge_new"]
    assert made.obj["data"] == LONG["data"]


async def test_a_short_patch_of_a_long_object_is_long_work(bench: Any, away: Away) -> None:
    await bench.create("configmaps", LONG)
    patch: Object = {"metadata": {"labels": {"a": "b"}}}
    out = await bench.registry.patch(replace(bench.ctx, body_bytes=40), MAPS, "default", "long", MERGE, patch)
    assert away.seen == ["_made", "_prepare_change", "_judge_change"]
    assert out.obj["metadata"]["labels"] == {"a": "b"}


async def test_a_long_apply_is_long_work(bench: Any, away: Away) -> None:
    wish = {"apiVersion": "v1", "kind": "ConfigMap", **LONG}
    ctx = replace(bench.ctx, body_bytes=120_000)
    made = await bench.registry.patch(ctx, MAPS, "default", "long", "application/apply-patch+yaml", wish)
    assert away.seen[0] == "_applied" and made.obj["data"] == LONG["data"]


async def test_what_is_wrong_with_a_long_body_is_said(bench: Any, away: Away) -> None:
    wrong = {**LONG, "data": {**LONG["data"], "no key": ""}}
    with pytest.raises(ApiError, match=r"data\[no key\]: Invalid value") as e:
        await bench.registry.create(replace(bench.ctx, body_bytes=120_000), MAPS, "default", wrong)
    assert (e.value.code, away.seen[-1]) == (422, "_judge_new")


async def test_an_object_that_fits_without_its_owners_is_kept_without_them(bench: Any) -> None:
    """Its managedFields are what a write may lose; what server-side apply rests on them for is refused."""
    data = {f"key-{i}": "" for i in range(100)}
    registry = bench.another(config=RegistryConfig(max_object_bytes=2500))
    made = await registry.create(bench.ctx, MAPS, "default", {"metadata": {"name": "x"}, "data": data})
    assert made.obj["data"] == data
    assert "managedFields" not in made.obj["metadata"]
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "y"}, "data": data}
    with pytest.raises(ApiError, match="limit is 2500") as e:
        await registry.patch(bench.ctx, MAPS, "default", "y", "application/apply-patch+yaml", whole)
    assert e.value.code == 413
