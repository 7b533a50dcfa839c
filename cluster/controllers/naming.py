"""Hashes and names in Kubernetes' style: pod-template-hash, controller revision hashes, pod name suffixes.

Pure. FNV-1a over canonical JSON, then Kubernetes' "safe encoding": letters and digits that spell no words
(k8s.io/apimachinery util/rand SafeEncodeString).
"""

from __future__ import annotations

from typing import Any

import orjson

_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def fnv1a_32(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def safe_encode(text: str) -> str:
    return "".join(_SAFE[ord(c) % len(_SAFE)] for c in text)


def template_hash(template: dict[str, Any], collision_count: int | None = None) -> str:
    """The same template gives the same hash; `collision_count` gives another one when the name was taken."""
    data = orjson.dumps(template, option=orjson.OPT_SORT_KEYS)
    if collision_count is not None:
        data += collision_count.to_bytes(8, "little")
    return safe_encode(str(fnv1a_32(data)))
