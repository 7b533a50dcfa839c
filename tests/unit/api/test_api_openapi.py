"""The published documents, as kubectl reads them."""

from __future__ import annotations

import pytest

from cluster.api import openapi, openapi_v2
from cluster.api.scheme import EDGE, SCHEME


def test_index_names_every_group_version() -> None:
    paths = openapi.index()["paths"]
    assert "api/v1" in paths and "apis/apps/v1" in paths
    served = {(i.group, i.version) for i in (*SCHEME.served(), *EDGE)}
    assert len(paths) == len(served)
    assert paths["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")


def test_document_is_closed_and_tagged() -> None:
    doc = openapi.document("apps", "v1")
    schemas = doc["components"]["schemas"]
    missing = [r for r in openapi._refs(doc) if r not in schemas]
    assert missing == []
    deployment = schemas["io.k8s.api.apps.v1.Deployment"]
    assert {"group": "apps", "version": "v1", "kind": "Deployment"} in deployment["x-kubernetes-group-version-kind"]
    assert schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"] == "int-or-string"
    assert "oneOf" in schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]
    assert deployment["properties"]["kind"]["type"] == "string"
    assert "enum" not in deployment["properties"]["kind"]


def test_patch_operation_offers_field_validation() -> None:
    path = openapi.document("apps", "v1")["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]
    assert path["patch"]["x-kubernetes-action"] == "patch"
    assert path["patch"]["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert "fieldValidation" in [p["name"] for p in path["patch"]["parameters"]]


def test_unknown_group_version() -> None:
    with pytest.raises(KeyError):
        openapi.document("nope", "v1")


def test_version_2_shows_no_fields_of_a_kind_that_takes_any_and_no_type_of_what_may_be_null() -> None:
    gvk = [{"group": "g", "kind": "K", "version": "v1"}]
    spec = {"type": "object", "nullable": True, "properties": {"a": {"type": "string"}}, "description": "kept"}
    closed = {"type": "object", "properties": {"spec": spec}, "x-kubernetes-group-version-kind": gvk}
    opened = {**closed, "x-kubernetes-preserve-unknown-fields": True}
    definitions = openapi_v2.document("t", "v", {}, {"closed": closed, "opened": opened})["definitions"]
    assert definitions["opened"] == {"type": "object", "x-kubernetes-group-version-kind": gvk}
    assert definitions["closed"]["properties"] == {"spec": {"description": "kept"}}
