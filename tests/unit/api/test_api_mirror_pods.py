"""A pod cannot become a static pod's mirror by a write, nor cease to be one (ValidatePodSpecificAnnotationUpdates)."""

from __future__ import annotations

import pytest

from cluster.api import validation
from cluster.api.scheme import SCHEME

MIRROR = "kubernetes.io/config.mirror"


def causes(before: dict[str, str], after: dict[str, str], subresource: str) -> list[tuple[str | None, str]]:
    info = SCHEME.for_kind("", "v1", "Pod")
    assert info is not None
    spec = {"containers": [{"name": "c", "image": "i"}]}
    old, new = ({"metadata": {"name": "p", "namespace": "n", "annotations": a}, "spec": spec} for a in (before, after))
    return [(cause.field, cause.message) for cause in validation.update(info, new, old, subresource)]


@pytest.mark.parametrize("subresource", ["", "status", "resize"])
def test_the_annotation_stays_as_it_was(subresource: str) -> None:
    at = f"metadata.annotations[{MIRROR}]"
    assert causes({}, {MIRROR: "x"}, subresource) == [(at, "Forbidden: may not add mirror pod annotation")]
    for after in ({}, {MIRROR: "y"}):
        found = causes({MIRROR: "x"}, after, subresource)
        assert (at, "Forbidden: may not remove or update mirror pod annotation") in found
    assert causes({"other": "x"}, {"other": "y"}, subresource) == []
