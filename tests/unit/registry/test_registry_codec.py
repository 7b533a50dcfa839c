"""The stored value: splice, header, encryption."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.codec import Codec
from cluster.registry.types import RegistryConfig

OBJ = {
    "apiVersion": "apps/v1", "kind": "Deployment", "spec": {"x": "ü", "owner": "a Deployment"},
    "metadata": {"name": "d", "uid": "u-1", "resourceVersion": "9"},
}  # fmt: skip


@pytest.mark.parametrize("encrypt", [False, True])
def test_round_trip_with_the_revision_spliced_in(encrypt: bool) -> None:
    codec = Codec({"k2": b"b" * 32, "k1": b"a" * 32})
    value, body, _ = codec.encode(b"/k", OBJ, encrypt=encrypt)
    assert (b"Deployment" in value[60:]) is not encrypt
    assert b"resourceVersion" not in body
    stored = codec.decode(b"/k", value, 1234)
    assert (stored.uid, stored.revision) == ("u-1", 1234)
    want = {**OBJ, "metadata": {**OBJ["metadata"], "resourceVersion": "1234"}}  # type: ignore[dict-item]
    assert stored.obj == want
    assert stored.raw.startswith(
        b'{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"resourceVersion":"1234","name"'
    )
    assert orjson.loads(stored.raw) == want


def test_ciphertext_is_bound_to_its_key_and_header() -> None:
    codec = Codec({"k1": b"a" * 32})
    value, _, _ = codec.encode(b"/a", OBJ, encrypt=True)
    with pytest.raises(ApiError, match="wrong key or changed data"):
        codec.decode(b"/b", value, 1)
    with pytest.raises(ApiError, match="does not have"):
        Codec().decode(b"/a", value, 1)
    with pytest.raises(ApiError, match="wrong key or changed data"):
        Codec({"k1": b"z" * 32}).decode(b"/a", value, 1)


def test_another_format_is_refused() -> None:
    value, _, _ = Codec().encode(b"/a", OBJ)
    with pytest.raises(ApiError, match="format 9"):
        Codec().decode(b"/a", b"\x09" + value[1:], 1)


async def test_a_write_that_changes_nothing_renews_the_key(bench: Any) -> None:
    """Rotation: new key first, old one still there; rewriting every Secret as it is moves it to the new key."""
    info = SCHEME.named("secrets")
    made = await bench.create("secrets", {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
    keys = {"k2": b"n" * 32, "k1": b"k" * 32}
    rotated = bench.another(config=RegistryConfig(encryption_keys=keys))
    again = await rotated.update(bench.ctx, info, "default", "s", made.fresh())
    assert again.revision > made.revision
    assert (await rotated.update(bench.ctx, info, "default", "s", again.fresh())).revision == again.revision
    only_new = bench.another(config=RegistryConfig(encryption_keys={"k2": b"n" * 32}))
    assert (await only_new.get(bench.ctx, info, "default", "s")).obj["data"] == {"k": "dg=="}
