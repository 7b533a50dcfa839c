"""Kubernetes' protobuf bodies become the JSON that Go would have written."""

import struct

import pytest

from cluster.apiserver.protobuf import BadProtobuf, decode_object

# What `kubectl create configmap c --from-literal=a=b` (1.32) sends.
CONFIG_MAP = bytes.fromhex(
    "6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a01631200"
    "1a0022002a00320038004200120 60a016112016 21a002200".replace(" ", "")
)


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = b""
    while True:
        out += bytes([n & 0x7F | (0x80 if n > 0x7F else 0)])
        n >>= 7
        if not n:
            return out


def num(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def sub(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + sub(1, sub(1, api_version.encode()) + sub(2, kind.encode())) + sub(2, raw)


def test_what_kubectl_sends():
    want = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "b"}}
    assert decode_object(CONFIG_MAP) == want


def test_pointers_keep_zero_and_others_do_not():
    spec = num(1, 0) + num(5, 0) + num(7, 0) + sub(4, sub(2, sub(1, num(1, 1) + sub(3, b"25%"))))
    got = decode_object(envelope("apps/v1", "Deployment", sub(2, spec)))
    assert got["spec"] == {"replicas": 0, "strategy": {"rollingUpdate": {"maxUnavailable": "25%"}}}


def test_embedded_structs_quantities_times_and_negative_numbers():
    volume = sub(1, b"v") + sub(2, sub(2, sub(1, b"Memory") + sub(2, sub(1, b"64Mi"))))
    container = sub(1, b"c") + sub(8, sub(1, sub(1, b"cpu") + sub(2, sub(1, b"500m"))))
    toleration = sub(1, b"k") + num(5, -1)
    spec = sub(1, volume) + sub(2, container) + sub(22, toleration)
    meta = sub(1, b"p") + sub(8, num(1, 1_700_000_000)) + sub(9, b"")
    got = decode_object(envelope("v1", "Pod", sub(1, meta) + sub(2, spec)))
    assert got["metadata"] == {"name": "p", "creationTimestamp": "2023-11-14T22:13:20Z"}
    assert got["spec"]["volumes"] == [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}]
    assert got["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}}
    assert got["spec"]["tolerations"] == [{"key": "k", "tolerationSeconds": -1}]


def test_reviews_and_binary_data():
    spec = sub(3, b"u") + sub(4, b"g1") + sub(4, b"g2") + sub(5, sub(1, b"k") + sub(2, sub(1, b"x") + sub(1, b"y")))
    got = decode_object(envelope("authorization.k8s.io/v1", "SubjectAccessReview", sub(2, spec)))
    assert got["spec"] == {"user": "u", "groups": ["g1", "g2"], "extra": {"k": ["x", "y"]}}
    secret = sub(2, sub(1, b"key") + sub(2, b"\x00\xff")) + sub(3, b"Opaque")
    got = decode_object(envelope("v1", "Secret", secret))
    assert (got["data"], got["type"]) == ({"key": "AP8="}, "Opaque")


def test_delete_options_of_any_group():
    got = decode_object(envelope("policy/v1", "DeleteOptions", num(1, 0) + sub(4, b"Foreground")))
    assert (got["gracePeriodSeconds"], got["propagationPolicy"]) == (0, "Foreground")


def doubled(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def test_definitions_whose_schemas_say_things_in_either_of_two_forms():
    """client-go's clientset for definitions sends them so."""
    number = sub(5, b"number") + doubled(9, 10.0) + doubled(11, 0.5) + sub(8, sub(1, b"3"))
    text = sub(5, b"string") + sub(20, sub(1, b'"a"')) + sub(20, sub(1, b"1"))
    fields = {
        b"list": sub(5, b"array") + sub(24, sub(1, text)),
        b"map": sub(5, b"object") + sub(30, num(1, 1) + sub(2, number)),
        b"open": sub(5, b"object") + sub(30, num(1, 1)) + num(38, 1),
        b"shut": sub(5, b"object") + sub(30, b"") + sub(32, sub(1, b"d") + sub(2, sub(2, b"x") + sub(2, b"y"))),
    }
    schema = sub(5, b"object") + b"".join(sub(29, sub(1, k) + sub(2, v)) for k, v in fields.items())
    version = sub(1, b"v1") + num(2, 1) + num(3, 1) + sub(4, sub(1, schema)) + sub(5, sub(1, b""))
    spec = sub(1, b"example.com") + sub(4, b"Namespaced") + sub(7, version)
    got = decode_object(envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", sub(2, spec)))
    made = got["spec"]["versions"][0]
    assert (made["served"], made["storage"], made["subresources"]) == (True, True, {"status": {}})
    assert made["schema"]["openAPIV3Schema"] == {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "string", "enum": ["a", 1]}},
            "map": {
                "type": "object",
                "additionalProperties": {"type": "number", "maximum": 10, "minimum": 0.5, "default": 3},
            },
            "open": {
                "type": "object",
                "additionalProperties": True,
                "x-kubernetes-preserve-unknown-fields": True,
            },
            "shut": {"type": "object", "additionalProperties": False, "dependencies": {"d": ["x", "y"]}},
        },
    }


def test_unknown_fields_are_skipped():
    body = sub(1, sub(1, b"x")) + sub(999, b"?") + varint(998 << 3 | 1) + struct.pack("<q", 1) + num(997, 3)
    assert decode_object(envelope("v1", "ConfigMap", body))["metadata"] == {"name": "x"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"k8s\x00",
        b"k8s\x00\xff",
        envelope("v1", "Nothing", b""),
        envelope("v1", "ConfigMap", b"\x0a\x7f"),
        envelope("v1", "ConfigMap", b"\x0b"),
        envelope("v1", "ConfigMap", sub(1, num(1, 3))),
        envelope("v1", "ConfigMap", sub(1, sub(1, b"\xff\xfe"))),
        envelope("v1", "ConfigMap", b"\x80" * 20),
    ],
)
def test_nonsense_is_refused(raw):
    with pytest.raises(BadProtobuf):
        decode_object(raw)
