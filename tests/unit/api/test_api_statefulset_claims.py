"""A StatefulSet's containers may mount its claim templates: they become volumes of each pod."""

from __future__ import annotations

from typing import Any

from cluster.api import validation
from cluster.api.scheme import SCHEME


def stateful_set(mount: str) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "volumeMounts": [{"name": mount, "mountPath": "/data"}]}
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "ss", "namespace": "default"},
        "spec": {
            "replicas": 1,
            "serviceName": "ss",
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
            "volumeClaimTemplates": [claim],
        },
    }


def fields_of(mount: str) -> list[str]:
    causes = validation.create(SCHEME.named("statefulsets.apps"), stateful_set(mount))
    return [c.field for c in causes if "volumeMounts" in c.field]


def test_the_claim_template_may_be_mounted_and_nothing_else() -> None:
    """Regression: `volumeMounts[0].name: Not found: "data"` for the standard way to run a database."""
    assert fields_of("data") == []
    assert fields_of("date") == ["spec.template.spec.containers[0].volumeMounts[0].name"]
