"""Changes that start from what is known, which may be old: nothing is lost, nothing is judged by what is no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.admission import Admission
from cluster.registry.types import Stored

Obj = dict[str, Any]
MAPS = SCHEME.named("configmaps")


class Memory:
    """What an API server's cache would know; `learn` brings it up to date."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.known: dict[bytes, Stored] = {}
        self.asked = 0
        bench.registry.start_from(self.look_up)

    def look_up(self, key: bytes) -> Stored | None:
        self.asked += 1
        return self.known.get(key)

    async def learn(self, name: str, resource: str = "configmaps") -> None:
        stored = await self.bench.get(resource, name)
        self.known[stored.key] = stored


@pytest.fixture
async def memory(bench: Any) -> Memory:
    made = Memory(bench)
    await bench.create("configmaps", {"metadata": {"name": "m"}, "data": {"a": "1"}})
    await made.learn("m")
    return made


@pytest.fixture
def reads(bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that the store was asked for."""
    seen: list[bytes] = []
    read = bench.registry._core.read

    async def watched(key: bytes, **how: Any) -> Any:
        seen.append(key)
        return await read(key, **how)

    monkeypatch.setattr(bench.registry._core, "read", watched)
    return seen


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> list[Obj]:
    """What was put before admission."""
    seen: list[Obj] = []
    validate = Admission.validate

    async def watched(self: Admission, request: Any) -> None:
        seen.append(request.obj)
        await validate(self, request)

    monkeypatch.setattr(Admission, "validate", watched)
    return seen


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch, admitted: list[Obj]) -> None:
    """Admission says no to what has `wrong` among its data, with a code that Kubernetes lets a webhook choose."""
    watched = Admission.validate

    async def judge(self: Admission, request: Any) -> None:
        await watched(self, request)
        if "wrong" in request.obj.get("data", {}):
            raise ApiError(500, "InternalError", "admission said no")

    monkeypatch.setattr(Admission, "validate", judge)


async def patch(bench: Any, data: Obj, name: str = "m", **meta: Any) -> Stored:
    wish = {"metadata": meta, "data": data}
    patched: Stored = await bench.registry.patch(bench.ctx, MAPS, "default", name, "application/merge-patch+json", wish)
    return patched


async def test_what_is_known_needs_no_read(bench: Any, memory: Memory, reads: list[bytes]) -> None:
    patched = await patch(bench, {"b": "2"})
    assert reads == [] and patched.obj["data"] == {"a": "1", "b": "2"}
    assert (await bench.get("configmaps", "m")).raw == patched.raw


async def test_what_others_wrote_meanwhile_is_kept(bench: Any, memory: Memory) -> None:
    other = bench.another()
    await other.patch(bench.ctx, MAPS, "default", "m", "application/merge-patch+json", {"data": {"theirs": "x"}})
    assert (await patch(bench, {"mine": "y"})).obj["data"] == {"a": "1", "theirs": "x", "mine": "y"}


async def test_own_writes_that_have_not_come_back_are_read(bench: Any, memory: Memory, reads: list[bytes]) -> None:
    """Else each second one of many quick writes would be tried in vain."""
    txns = bench.store.txns
    await patch(bench, {"b": "2"})
    await patch(bench, {"c": "3"})
    assert len(reads) == 1 and bench.store.txns == txns + 2
    await memory.learn("m")
    reads.clear()
    assert (await patch(bench, {"d": "4"})).obj["data"] == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert reads == []


async def test_a_write_that_would_change_nothing_is_judged_by_what_is_there(bench: Any, memory: Memory) -> None:
    """a is 1 in what is known, and not any more."""
    await bench.another().patch(bench.ctx, MAPS, "default", "m", "application/merge-patch+json", {"data": {"a": "2"}})
    assert (await patch(bench, {"a": "1"})).obj["data"] == {"a": "1"}
    assert (await bench.get("configmaps", "m")).obj["data"] == {"a": "1"}


async def test_refusals_are_judged_by_what_is_there(bench: Any, memory: Memory) -> None:
    theirs = await bench.another().patch(
        bench.ctx, MAPS, "default", "m", "application/merge-patch+json", {"data": {"a": "2"}}
    )
    known = memory.known[theirs.key]
    with pytest.raises(ApiError) as refused:
        await patch(bench, {"a": "3"}, resourceVersion=str(known.revision))
    assert refused.value.reason == "Conflict"
    patched = await patch(bench, {"a": "3"}, resourceVersion=str(theirs.revision))
    assert patched.obj["data"] == {"a": "3"}


async def test_what_is_gone_or_made_anew_is_not_mistaken(bench: Any, memory: Memory) -> None:
    other = bench.another()
    old = memory.known[b"/registry/core/configmaps/default/m"]
    await bench.delete("configmaps", "m")
    with pytest.raises(ApiError) as gone:
        await patch(bench, {"b": "2"})
    assert gone.value.reason == "NotFound"
    again = await other.create(bench.ctx, MAPS, "default", {"metadata": {"name": "m"}, "data": {"new": "1"}})
    assert again.uid != old.uid
    with pytest.raises(ApiError) as another:
        await patch(bench, {"b": "2"}, uid=old.uid)
    assert another.value.reason == "Conflict"
    assert (await patch(bench, {"b": "2"})).obj["data"] == {"new": "1", "b": "2"}


async def test_the_last_finalizer_ends_an_object_once(bench: Any, memory: Memory, reads: list[bytes]) -> None:
    await bench.create("configmaps", {"metadata": {"name": "f", "finalizers": ["x.io/y"]}})
    await bench.delete("configmaps", "f")
    await memory.learn("f")
    reads.clear()
    await patch(bench, {}, "f", finalizers=None)
    assert reads == []
    with pytest.raises(ApiError):
        await bench.get("configmaps", "f")


async def test_a_write_whose_outcome_is_unknown_is_not_made_again(bench: Any, memory: Memory) -> None:
    bench.store.fail, txns = "outcome_unknown", bench.store.txns
    with pytest.raises(ApiError) as unknown:
        await patch(bench, {"b": "2"})
    assert unknown.value.code == 504 and bench.store.txns == txns + 1


async def test_of_what_is_encrypted_nothing_is_known(bench: Any, memory: Memory) -> None:
    await bench.create("secrets", {"metadata": {"name": "s"}})
    memory.asked = 0
    info = SCHEME.named("secrets")
    await bench.registry.patch(
        bench.ctx, info, "default", "s", "application/merge-patch+json", {"stringData": {"a": "b"}}
    )
    assert memory.asked == 0


async def test_admission_sees_a_write_that_changes_nothing_once(
    bench: Any, memory: Memory, reads: list[bytes], admitted: list[Obj]
) -> None:
    admitted.clear()
    assert (await patch(bench, {"a": "1"})).revision == memory.known[b"/registry/core/configmaps/default/m"].revision
    assert len(admitted) == 1 and len(reads) == 1


@pytest.mark.usefixtures("denied")
async def test_admission_sees_a_write_that_it_refuses_once(
    bench: Any, memory: Memory, reads: list[bytes], admitted: list[Obj]
) -> None:
    admitted.clear()
    with pytest.raises(ApiError, match="admission said no"):
        await patch(bench, {"wrong": "1"})
    assert len(admitted) == 1 and len(reads) == 1


@pytest.mark.usefixtures("denied")
async def test_what_admission_refuses_is_put_before_it_again_if_the_object_is_another(
    bench: Any, memory: Memory, admitted: list[Obj]
) -> None:
    await bench.another().patch(bench.ctx, MAPS, "default", "m", "application/merge-patch+json", {"data": {"a": "2"}})
    admitted.clear()
    with pytest.raises(ApiError, match="admission said no"):
        await patch(bench, {"wrong": "1"})
    assert [obj["data"]["a"] for obj in admitted] == ["1", "2"]


async def test_a_dry_run_leaves_what_is_known(bench: Any, memory: Memory, reads: list[bytes]) -> None:
    """Regression: the revision of the store, which the object never reached, was taken for the object's."""
    await bench.create("configmaps", {"metadata": {"name": "other"}})
    ctx, bench.ctx = bench.ctx, replace(bench.ctx, dry_run=True)
    await patch(bench, {"b": "2"})
    bench.ctx = ctx
    await patch(bench, {"b": "3"})
    assert reads == []
