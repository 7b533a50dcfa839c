"""The few messages of the device plugin API, v1beta1, as bytes (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1).

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.node.device_core import Grant
from cluster.node.protobuf_wire import field, fields

VERSION = "v1beta1"


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    version: str
    endpoint: str
    resource: str


def _strings(data: bytes) -> dict[int, str]:
    return {number: value.decode() for number, value in fields(data) if isinstance(value, bytes)}


def register_request(data: bytes) -> RegisterRequest:
    texts = _strings_of(data, (1, 2, 3))
    return RegisterRequest(texts.get(1, ""), texts.get(2, ""), texts.get(3, ""))


def _strings_of(data: bytes, numbers: Sequence[int]) -> dict[int, str]:
    return {n: v.decode() for n, v in fields(data) if n in numbers and isinstance(v, bytes)}


def devices(data: bytes) -> dict[str, bool]:
    """ListAndWatchResponse: each device's id, and whether it is healthy."""
    listed = [_strings_of(v, (1, 2)) for n, v in fields(data) if n == 1 and isinstance(v, bytes)]
    return {device[1]: device.get(2) == "Healthy" for device in listed if 1 in device}


def allocate_request(ids: Sequence[str]) -> bytes:
    """AllocateRequest of one container."""
    return field(1, b"".join(field(1, device.encode()) for device in ids))


def grant(data: bytes) -> Grant:
    """AllocateResponse of one container."""
    envs: dict[str, str] = {}
    mounts: list[tuple[str, str, bool]] = []
    nodes: list[tuple[str, str, str]] = []
    for outer, response in fields(data):
        if outer != 1 or not isinstance(response, bytes):
            continue
        for number, value in fields(response):
            if not isinstance(value, bytes):
                continue
            texts = _strings(value) if number in (1, 2, 3) else {}
            if number == 1:
                envs[texts.get(1, "")] = texts.get(2, "")
            elif number == 2:
                read_only = any(n == 3 and v == 1 for n, v in fields(value))
                mounts.append((texts.get(1, ""), texts.get(2, ""), read_only))
            elif number == 3:
                nodes.append((texts.get(1, ""), texts.get(2, ""), texts.get(3, "rw")))
    return Grant(envs, tuple(mounts), tuple(nodes))
