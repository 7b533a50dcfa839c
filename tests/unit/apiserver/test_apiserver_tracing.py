"""Names of a request's spans: kube-apiserver's, without names of objects."""

from __future__ import annotations

import pytest

from cluster.apiserver import requestinfo
from cluster.apiserver.tracing import span_name


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/api/v1/namespaces/shop/pods/web-1", "GET /api/v1/namespaces/{:namespace}/pods/{:name}"),
        ("PATCH", "/api/v1/nodes/m1/status", "PATCH /api/v1/nodes/{:name}/status"),
        ("POST", "/apis/apps/v1/namespaces/shop/deployments", "POST /apis/apps/v1/namespaces/{:namespace}/deployments"),
        ("GET", "/readyz", "GET"),
    ],
)
def test_a_span_is_named_by_the_kind_of_request(method: str, path: str, name: str) -> None:
    assert span_name(method, requestinfo.parse(method, path, {})) == name
