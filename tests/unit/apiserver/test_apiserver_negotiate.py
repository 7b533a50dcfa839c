"""Which form a client gets for its Accept header."""

import pytest

from cluster.apiserver.negotiate import negotiate, wants_aggregated_discovery

KUBECTL_GET = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json, */*", "application/json"),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json"),
        ("application/cbor;q=1,application/json;q=0.9", "application/json"),
        ("application/yaml", "application/yaml"),
        ("application/json;q=0.1,application/yaml", "application/yaml"),
        (KUBECTL_GET, "application/json;as=Table;v=v1;g=meta.k8s.io"),
        (
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        ),
        ("application/json;as=Unknown;g=meta.k8s.io;v=v1,application/json", "application/json"),
    ],
)
def test_served_form(accept, content_type):
    got = negotiate(accept)
    assert got is not None
    assert got.content_type == content_type


@pytest.mark.parametrize("accept", ["application/vnd.kubernetes.protobuf", "text/html", "application/json;q=0"])
def test_nothing_we_serve(accept):
    assert negotiate(accept) is None


def test_aggregated_discovery_only_when_preferred():
    v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    beta = v2.replace("v=v2;", "v=v2beta1;")
    assert wants_aggregated_discovery(f"{v2},{beta},application/json")
    assert not wants_aggregated_discovery("application/json")
    assert not wants_aggregated_discovery(f"{beta},application/json")
