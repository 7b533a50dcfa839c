"""The stored value: a small header and the object's JSON, or its ciphertext.

Pure but for the nonces, which come from the system's randomness on purpose. Layout (big endian):

    u8 format (2) | u8 len(gvk) | u8 len(key id) | u8 len(uid) | u32 offset | u8 len(cause)
        | gvk | key id | uid | cause | body

Format 1, which is read too, has no cause (`cluster/registry/context.py` says what that is).

The body is `{"kind":..,"apiVersion":..,"metadata":{...}...}` without a resourceVersion, which is the key's
mod_revision; `offset` is where in the body `"resourceVersion":"N",` is spliced in, so serving a stored object is one
concatenation of bytes and no parsing. An encrypted body is nonce | AES-GCM ciphertext, authenticated together with
the key it is stored under and the header, so a value cannot be moved to another key.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster.api import errors
from cluster.registry.types import Stored

FORMAT = 2
_HEAD = struct.Struct("!BBBBI")
_NONCE_BYTES = 12
_MAX_CAUSE_BYTES = 64


def ordered(obj: dict[str, Any]) -> dict[str, Any]:
    """kind, apiVersion, metadata first, as Kubernetes prints them and the splice needs them."""
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {k: v for k, v in metadata.items() if k != "resourceVersion"}
    out = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    for k, v in obj.items():
        if k not in out:
            out[k] = v
    return out


def body_of(obj: dict[str, Any]) -> tuple[bytes, int]:
    """The JSON to store, and the offset of the splice."""
    # {"kind":"...","apiVersion":"...","metadata":{   : 9 + kind + 16 + version + 14 bytes, names are plain ASCII
    offset = 39 + len(obj["kind"]) + len(obj["apiVersion"])
    return orjson.dumps(ordered(obj)), offset


def splice(body: bytes, offset: int, revision: int) -> bytes:
    return b'%b"resourceVersion":"%d",%b' % (body[:offset], revision, body[offset:])


class Codec:
    """Encodes and decodes stored values; `keys` maps key ids to AES keys, the first of which encrypts."""

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in (keys or {}).items()}
        self._primary = next(iter(self._ciphers), "")

    def encode(
        self, key: bytes, obj: dict[str, Any], *, encrypt: bool = False, cause: str = ""
    ) -> tuple[bytes, bytes, int]:
        """The value to put, the plain body and the splice's offset. `cause` is readable also where the body is not."""
        body, offset = body_of(obj)
        return self.seal(key, obj, body, offset, encrypt=encrypt, cause=cause), body, offset

    def seal(
        self, key: bytes, obj: dict[str, Any], body: bytes, offset: int, *, encrypt: bool = False, cause: str = ""
    ) -> bytes:
        """The value to put, of an object whose JSON is there already."""
        gvk = f"{obj['apiVersion']}/{obj['kind']}".encode()
        uid = obj["metadata"].get("uid", "").encode()
        key_id = self._primary if encrypt else ""
        why = cause.encode()[:_MAX_CAUSE_BYTES]
        head = _HEAD.pack(FORMAT, len(gvk), len(key_id), len(uid), offset)
        head = b"%b%c%b%b%b%b" % (head, len(why), gvk, key_id.encode(), uid, why)
        if not key_id:
            return head + body
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[key_id].encrypt(nonce, body, head + key)
        return head + nonce + sealed

    @property
    def primary(self) -> str:
        """The id of the key that encrypts; "" without keys."""
        return self._primary

    def decode(self, key: bytes, value: bytes, revision: int) -> Stored:
        """The stored object as served at `revision`; raises 500 when it cannot be read."""
        form, gvk_len, key_id_len, uid_len, offset = _HEAD.unpack_from(value)
        if form == FORMAT:
            at, cause_len = _HEAD.size + 1 + gvk_len, value[_HEAD.size]
        elif form == 1:
            at, cause_len = _HEAD.size + gvk_len, 0
        else:
            raise errors.internal(
                f"{key!r} is stored in format {form}; this version reads formats 1 to {FORMAT}: "
                "a newer version wrote it, start that one"
            )
        cause_at = at + key_id_len + uid_len
        body_at = cause_at + cause_len
        uid = value[at + key_id_len : cause_at].decode()
        cause = value[cause_at:body_at].decode(errors="replace")
        if key_id_len:
            key_id = value[at : at + key_id_len].decode()
            body = self._open(key, value, key_id, body_at)
            return Stored(key, splice(body, offset, revision), revision, uid, cause=cause, key_id=key_id)
        cut = body_at + offset
        raw = b'%b"resourceVersion":"%d",%b' % (value[body_at:cut], revision, value[cut:])
        return Stored(key, raw, revision, uid, cause=cause)

    def _open(self, key: bytes, value: bytes, key_id: str, body_at: int) -> bytes:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise errors.internal(f"{key!r} is encrypted with key {key_id!r}, which this server does not have")
        nonce = value[body_at : body_at + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, value[body_at + _NONCE_BYTES :], value[:body_at] + key)
        except InvalidTag as e:
            raise errors.internal(f"{key!r} does not decrypt with key {key_id!r}: wrong key or changed data") from e


_PLAIN = Codec()


def encode(obj: dict[str, Any], key: bytes = b"", codec: Codec = _PLAIN, *, encrypt: bool = False) -> bytes:
    return codec.encode(key, obj, encrypt=encrypt)[0]


def decode(value: bytes, mod_revision: int, key: bytes = b"", codec: Codec = _PLAIN) -> Stored:
    return codec.decode(key, value, mod_revision)
