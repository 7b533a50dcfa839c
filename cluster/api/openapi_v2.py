"""The Swagger 2.0 document at /openapi/v2, made from the v3 parts, as JSON or as gnostic's protobuf.

Pure. Old clients read it, and kubectl does where v3 has no answer: it asks for the protobuf form alone, so that form is
encoded here by a table of openapi.v2's messages. Source: github.com/google/gnostic openapiv2/OpenAPIv2.proto (field
numbers), Swagger 2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

Doc = dict[str, Any]

PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
_V3, _V2 = "#/components/schemas/", "#/definitions/"
_MEDIA = ["application/json", "application/yaml"]
_GVK = "x-kubernetes-group-version-kind"
_OF_ONE_TYPE = ("type", "items", "properties")
_SPECIAL: dict[str, Doc] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
}


def document(title: str, version: str, paths: Mapping[str, Doc], schemas: Mapping[str, Doc]) -> Doc:
    """From v3's paths and components.schemas."""
    definitions = {
        name: {**({"description": s["description"]} if "description" in s else {}), **_SPECIAL[name]}
        if name in _SPECIAL
        else _definition(s)
        for name, s in schemas.items()
    }
    return {
        "swagger": "2.0",
        "info": {"title": title, "version": version},
        "paths": {path: _path(item) for path, item in paths.items()},
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "type": "apiKey",
                "name": "authorization",
                "in": "header",
                "description": "Bearer Token authentication",
            }
        },
        "security": [{"BearerToken": []}],
    }


def _definition(schema: Doc) -> Doc:
    """A kind that takes any field shows none: clients of v2 would refuse what is not among those shown."""
    if schema.get("x-kubernetes-preserve-unknown-fields") and _GVK in schema:
        return {"type": "object", _GVK: schema[_GVK]}
    found: Doc = _schema(schema)
    return found


def _schema(node: Any) -> Any:
    """References lose their wrapping; what v2 has no word for (oneOf) becomes its nearest type."""
    if isinstance(node, list):
        return [_schema(n) for n in node]
    if not isinstance(node, dict):
        return node
    out: Doc = {}
    # v2 has no null: what may be null may be anything there.
    unsaid = _OF_ONE_TYPE if node.get("nullable") is True else ()
    for k, v in node.items():
        if k in unsaid:
            continue
        if k == "$ref":
            out[k] = _V2 + v.removeprefix(_V3)
        elif k == "allOf" and len(v) == 1 and "$ref" in v[0]:
            out["$ref"] = _V2 + v[0]["$ref"].removeprefix(_V3)
        elif k in ("oneOf", "anyOf", "not", "nullable"):
            continue
        elif k == "properties":
            out[k] = {name: _schema(sub) for name, sub in v.items()}
        elif k in ("default", "enum", "example"):
            out[k] = v
        else:
            out[k] = _schema(v)
    return out


def _parameter(p: Doc) -> Doc:
    return {**{k: v for k, v in p.items() if k != "schema"}, **(p.get("schema") or {})}


def _operation(op: Doc) -> Doc:
    out: Doc = {k: v for k, v in op.items() if k not in ("parameters", "requestBody", "responses")}
    parameters = [_parameter(p) for p in op.get("parameters") or ()]
    body = op.get("requestBody")
    consumes = ["*/*"]
    if body:
        schema = _schema(next(iter(body["content"].values()))["schema"])
        parameters.insert(0, {"in": "body", "name": "body", "schema": schema})
        if body.get("required"):
            parameters[0]["required"] = True
        consumes = list(body["content"])
    responses: Doc = {}
    for code, answer in op["responses"].items():
        content = answer.get("content") or {}
        responses[code] = {"description": answer["description"]}
        for media in content.values():
            responses[code]["schema"] = _schema(media["schema"])
    return {**out, "consumes": consumes, "produces": _MEDIA, "schemes": ["https"], "parameters": parameters,
            "responses": responses}  # fmt: skip


def _path(item: Doc) -> Doc:
    out: Doc = {method: _operation(item[method]) for method in _METHODS if method in item}
    if item.get("parameters"):
        out["parameters"] = [_parameter(p) for p in item["parameters"]]
    return out


# --- protobuf ---------------------------------------------------------------------------------------------------------

Encode = Callable[[Any], bytes]


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _chunk(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _text(number: int, value: str) -> bytes:
    return _chunk(number, value.encode()) if value else b""


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1) if value else b""


def _any(value: Any) -> bytes:
    """openapi.v2.Any: the value as YAML."""
    return _text(2, yaml.dump(value, Dumper=yaml.CSafeDumper, default_flow_style=False, width=1 << 30))


def _named(number: int, items: Mapping[str, Any], encode: Encode) -> bytes:
    """A map as repeated (name, value) messages."""
    return b"".join(_chunk(number, _text(1, str(k)) + _chunk(2, encode(v))) for k, v in items.items())


def _extensions(number: int, obj: Doc) -> bytes:
    return _named(number, {k: v for k, v in obj.items() if k.startswith("x-")}, _any)


_SCHEMA_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_SCHEMA_INTS = {"maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "uniqueItems": 16,
                "maxProperties": 17, "minProperties": 18}  # fmt: skip


def _schema_message(s: Doc) -> bytes:
    out = [_text(n, s.get(k, "")) for k, n in _SCHEMA_TEXTS.items()]
    out += [_int(n, int(s.get(k, 0))) for k, n in _SCHEMA_INTS.items()]
    if "default" in s:
        out.append(_chunk(5, _any(s["default"])))
    out += [_text(19, r) for r in s.get("required") or ()]
    out += [_chunk(20, _any(e)) for e in s.get("enum") or ()]
    more = s.get("additionalProperties")
    if isinstance(more, dict):
        out.append(_chunk(21, _chunk(1, _schema_message(more))))
    elif isinstance(more, bool):
        out.append(_chunk(21, _varint(2 << 3) + _varint(more)))
    if s.get("type"):
        out.append(_chunk(22, _text(1, s["type"])))
    if s.get("items") is not None:
        out.append(_chunk(23, _chunk(1, _schema_message(s["items"]))))
    out += [_chunk(24, _schema_message(a)) for a in s.get("allOf") or ()]
    if s.get("properties"):
        out.append(_chunk(25, _named(1, s["properties"], _schema_message)))
    out.append(_extensions(31, s))
    return b"".join(out)


# Where type, format and uniqueItems are in the sub-schema of each kind of parameter.
_PARAMETERS = {"header": (1, 5, 6, 19), "formData": (2, 6, 7, 20), "query": (3, 6, 7, 20), "path": (4, 5, 6, 19)}


def _parameter_message(p: Doc) -> bytes:
    head = {"required": p.get("required", False), "in": p["in"], "description": p.get("description", "")}
    if p["in"] == "body":
        body = _text(1, head["description"]) + _text(2, p["name"]) + _text(3, "body") + _int(4, head["required"])
        return _chunk(1, _chunk(1, body + _chunk(5, _schema_message(p["schema"]))))
    which, kind, form, unique = _PARAMETERS[p["in"]]
    sub = _int(1, head["required"]) + _text(2, p["in"]) + _text(3, head["description"]) + _text(4, p["name"])
    sub += _text(kind, p.get("type", "")) + _text(form, p.get("format", "")) + _int(unique, p.get("uniqueItems", False))
    return _chunk(1, _chunk(2, _chunk(which, sub)))


def _response(r: Doc) -> bytes:
    schema = _chunk(2, _chunk(1, _schema_message(r["schema"]))) if "schema" in r else b""
    return _chunk(1, _text(1, r["description"]) + schema)


def _operation_message(op: Doc) -> bytes:
    out = [_text(1, t) for t in op.get("tags") or ()]
    out += [_text(3, op.get("description", "")), _text(5, op.get("operationId", ""))]
    out += [_text(6, m) for m in op.get("produces") or ()]
    out += [_text(7, m) for m in op.get("consumes") or ()]
    out += [_chunk(8, _parameter_message(p)) for p in op.get("parameters") or ()]
    out.append(_chunk(9, _named(1, op["responses"], _response)))
    out += [_text(10, s) for s in op.get("schemes") or ()]
    out.append(_extensions(13, op))
    return b"".join(out)


def _path_message(item: Doc) -> bytes:
    numbers = {m: i for i, m in enumerate(_METHODS, 2)}
    out = [_chunk(numbers[m], _operation_message(item[m])) for m in _METHODS if m in item]
    out += [_chunk(9, _parameter_message(p)) for p in item.get("parameters") or ()]
    return b"".join(out)


def _security(doc: Doc) -> Iterator[bytes]:
    for requirement in doc["security"]:
        yield _chunk(12, _named(1, requirement, lambda scopes: b"".join(_text(1, s) for s in scopes)))

    def api_key(s: Doc) -> bytes:
        fields = (s["type"], s["name"], s["in"], s["description"])
        return _chunk(2, b"".join(_text(i, v) for i, v in enumerate(fields, 1)))

    yield _chunk(13, _named(1, doc["securityDefinitions"], api_key))


def protobuf(doc: Doc) -> bytes:
    """`document`'s answer as an openapi.v2.Document message."""
    info = _text(1, doc["info"]["title"]) + _text(2, doc["info"]["version"])
    paths = _chunk(8, _named(2, doc["paths"], _path_message))
    definitions = _chunk(9, _named(1, doc["definitions"], _schema_message))
    return b"".join((_text(1, doc["swagger"]), _chunk(2, info), paths, definitions, *_security(doc)))
