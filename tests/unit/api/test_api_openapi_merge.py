"""Other servers' OpenAPI put into ours."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import openapi_merge

Object = dict[str, Any]
OURS: Object = {"swagger": "2.0", "paths": {"/apis/a/v1/x": {"ours": {}}}}


def ref(name: str) -> Object:
    return {"$ref": f"#/definitions/{name}"}


def test_what_refers_to_a_renamed_definition_is_renamed_as_well() -> None:
    """`outer` reads the same on both sides, but means another `inner`; `same` means the same."""
    outer = {"properties": {"inner": ref("inner")}}
    ours = {**OURS, "definitions": {"outer": outer, "inner": {"type": "string"}, "same": {"type": "number"}}}
    theirs = {"outer": outer, "inner": {"type": "integer"}, "same": {"type": "number"}}
    part = {"paths": {"/apis/b/v1/y": {"get": [ref("outer"), ref("same")]}}, "definitions": theirs}
    other = {**part, "definitions": {**theirs, "inner": {"type": "boolean"}}}
    got = openapi_merge.merged(ours, [part, other, part])
    assert got["definitions"] == {
        **ours["definitions"],
        "outer_v2": {"properties": {"inner": ref("inner_v2")}},
        "inner_v2": {"type": "integer"},
        "outer_v3": {"properties": {"inner": ref("inner_v3")}},
        "inner_v3": {"type": "boolean"},
    }
    assert got["paths"]["/apis/b/v1/y"] == {"get": [ref("outer_v2"), ref("same")]}


def test_a_path_that_is_ours_stays_ours() -> None:
    ours = {**OURS, "definitions": {}}
    assert openapi_merge.merged(ours, [{"paths": {"/apis/a/v1/x": {"theirs": {}}}}]) == ours


def test_a_definition_may_refer_to_itself() -> None:
    definitions = {"tree": {"items": ref("tree")}, "unused": {}}
    spec = {"paths": {"/apis/b/v1/y": {"get": ref("tree")}, "/apis/b/v1beta1/y": {}}, "definitions": definitions}
    got = openapi_merge.part(spec, "/apis/b/v1")
    assert (list(got["paths"]), list(got["definitions"])) == (["/apis/b/v1/y"], ["tree"])


@pytest.mark.parametrize("paths", [7, {"/apis/b/v1/y": ref("absent")}, {"/apis/b/v1/y": {"get": {"parameters": [7]}}}])
def test_what_cannot_be_read_is_skipped(paths: Any) -> None:
    assert openapi_merge.readable_part({"paths": paths}, "/apis/b/v1") == {}


@pytest.mark.parametrize("url", ["https://elsewhere/", "/openapi/v3/apis/c/v1?hash=1", 7, None])
def test_an_index_leads_nowhere_else(url: Any) -> None:
    assert openapi_merge.url_of({"paths": {"apis/b/v1": {"serverRelativeURL": url}}}, "apis/b/v1") == ""
