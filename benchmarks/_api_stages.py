"""What a pod's create costs inside the API server, stage by stage, without HTTP and store: the shipped functions, each
called in a loop on this process's CPU clock. IO: none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from cluster.api import defaults, managed, schema, typecheck, validation
from cluster.api.scheme import SCHEME
from cluster.registry.codec import Codec
from cluster.registry.strategies import stamp_new, strategy_for

Obj = dict[str, Any]
_UID = "00000000-0000-4000-8000-000000000000"


def stages(pod: Obj, rounds: int) -> dict[str, float]:
    """CPU microseconds per call."""
    info, now, codec = SCHEME.named("pods"), 1_700_000_000.0, Codec()
    node = schema.node_of(info)
    raw = orjson.dumps(pod)

    def decoded() -> Obj:
        return typecheck.decode(node, orjson.loads(raw), info.version, info.kind, "Strict")[0]

    def defaulted() -> Obj:
        obj = decoded()
        obj["metadata"]["namespace"] = "default"
        stamp_new(obj, _UID, now, strategy_for(info))
        defaults.apply(info, obj)
        return obj

    whole = defaulted()

    def fields() -> None:
        managed.on_create(node, whole, "benchmark", now)

    fields()
    took_decode = _cpu_us(decoded, rounds)
    return {
        "decode and type check": took_decode,
        "defaults": max(_cpu_us(defaulted, rounds) - took_decode, 0.0),
        "validate": _cpu_us(lambda: validation.create(info, whole), rounds),
        "managed fields": _cpu_us(fields, rounds),
        "encode": _cpu_us(lambda: codec.encode(b"/registry/core/pods/default/bench", whole), rounds),
    }


def _cpu_us(call: Callable[[], object], rounds: int) -> float:
    """The best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for _ in range(rounds):
            call()
        best = min(best, (time.process_time() - began) / rounds)
    return best * 1e6
