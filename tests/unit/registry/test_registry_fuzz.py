"""Objects and patches that are nearly right: refused with a Status or taken; never an internal error or half a write.

Each example takes a valid object of some kind and puts a random value, or nothing, at a random place of it.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo
from tests.support.samples import sample

Object = dict[str, Any]

LEAVES = st.sampled_from(
    [None, True, -1, 0, 1, 2**31, 2**63 - 1, 1.5, "", "a", "A_b", "-1", "1Gi", "50%", "a" * 300, "x=y", "*", "\x00",
     "ü", "2026-01-01T00:00:00Z", "10.0.0.1", "10.0.0.0/8", "/", "..", [], {}]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "name", "type"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KINDS = st.sampled_from(SCHEME.served())
_DROP = object()


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path inside an object."""
    out = [at] if at else []
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        out += places(value, (*at, key))
    return out


def put(obj: Object, at: tuple[Any, ...], value: Any) -> Object:
    out = copy.deepcopy(obj)
    holder: Any = out
    for key in at[:-1]:
        holder = holder[key]
    if value is _DROP:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return out


@st.composite
def nearly(draw: Any) -> tuple[ResourceInfo, Object]:
    info = draw(KINDS)
    obj = sample(info, "x")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places(obj)))
        obj = put(obj, at, draw(st.just(_DROP) | VALUES))
        if not places(obj):
            break
    return info, obj


bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def fresh(make: Any) -> Any:
    bench = make.bench()
    await bench.create("namespaces", {"metadata": {"name": "default"}}, "")
    await bench.create("serviceaccounts", {"metadata": {"name": "default"}})
    return bench


async def _attempt(bench: Any, call: Any) -> Any:
    """The answer, or the error, which is then a client's and has changed nothing."""
    before = bench.store.revision
    try:
        return await call
    except ApiError as e:
        assert 400 <= e.code < 500, e
        orjson.dumps(e.status())
        assert bench.store.revision == before
        return e


@given(nearly())
@bounded
def test_nearly_right_objects(make: Any, case: tuple[ResourceInfo, Object]) -> None:
    info, obj = case
    namespace = "default" if info.namespaced else ""

    async def life() -> None:
        made = await fresh(make)
        stored = await _attempt(made, made.registry.create(made.ctx, info, namespace, obj))
        if isinstance(stored, ApiError):
            return
        name = stored.obj["metadata"]["name"]
        again = await made.registry.get(made.ctx, info, namespace, name)
        same = await _attempt(made, made.registry.update(made.ctx, info, namespace, name, again.fresh()))
        assert not isinstance(same, ApiError), same  # what was accepted is valid, and stable
        assert same.revision == again.revision, (again.obj, same.obj)

    asyncio.run(life())


PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml")


@given(KINDS, st.data(), st.sampled_from(PATCHES), st.sampled_from(["", "status", "scale"]))
@bounded
def test_patches_of_any_shape(make: Any, info: ResourceInfo, data: Any, media: str, subresource: str) -> None:
    namespace = "default" if info.namespaced else ""
    subresource = subresource if subresource in info.subresources else ""
    base = sample(info, "p")
    name = base["metadata"]["name"]
    at = data.draw(st.sampled_from(places(base)))
    patch = put(base, at, data.draw(VALUES))
    if media != PATCHES[2]:
        patch = {k: v for k, v in patch.items() if data.draw(st.booleans())}

    async def life() -> None:
        made = await fresh(make)
        before = await _attempt(made, made.registry.create(made.ctx, info, namespace, base))
        assert not isinstance(before, ApiError), before
        call = made.registry.patch(made.ctx, info, namespace, name, media, patch, subresource=subresource, force=True)
        await _attempt(made, call)

    asyncio.run(life())


@given(st.data())
@bounded
def test_json_patches_of_any_shape(make: Any, data: Any) -> None:
    info = SCHEME.named("deployments.apps")
    pointers = ["/" + "/".join(str(p) for p in at) for at in places(sample(info, "j"))] + [
        "",
        "/",
        "/nope/x",
        "/spec/-",
    ]
    operation = st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "odd"]),
            "path": st.sampled_from(pointers),
            "from": st.sampled_from(pointers),
            "value": VALUES,
        }
    )
    patch = data.draw(st.lists(operation, max_size=3) | VALUES)

    async def life() -> None:
        made = await fresh(make)
        await _attempt(made, made.registry.create(made.ctx, info, "default", sample(info, "j")))
        await _attempt(made, made.registry.patch(made.ctx, info, "default", "j", "application/json-patch+json", patch))

    asyncio.run(life())
