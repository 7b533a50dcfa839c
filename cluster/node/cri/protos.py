"""The messages of CRI v1, made at import from its compiled definition.

`api.proto` is Kubernetes' own (k8s.io/cri-api, Apache License 2.0, its header is kept), `api.binpb` what protoc makes
of it: `protoc --descriptor_set_out=api.binpb api.proto`. So no generated code depends on a version of protobuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "runtime.v1"


def _load() -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """Message classes by name; (request, response) of each method by `Service/Method`."""
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("api.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    found: dict[str, Any] = {}
    methods: dict[str, tuple[str, str]] = {}
    for file in files.file:
        pool.Add(file)
        for message in file.message_type:
            descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")
            found[message.name] = message_factory.GetMessageClass(descriptor)
        for service in file.service:
            for method in service.method:
                types = (method.input_type.rpartition(".")[2], method.output_type.rpartition(".")[2])
                methods[f"{service.name}/{method.name}"] = types
    return found, methods


_MESSAGES, METHODS = _load()


def message(name: str, /, **fields: Any) -> Any:
    """A message with these fields; those that are None are left out."""
    return _MESSAGES[name](**{k: v for k, v in fields.items() if v is not None})


def message_class(name: str) -> Any:
    return _MESSAGES[name]
