"""A whole cluster's store from a snapshot: everything is thrown away, and every object is back in a new group.

Three State members and an API server, the actors' parts as processes; stock kubectl before and after.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.machine.config import load_cluster
from tests.support.control_plane import ControlPlane, eventually, new_config

NETWORK = 62
KINDS = "namespaces,configmaps,secrets,deployments,services"
OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
stringData: {password: correct horse}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1.21"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def start(plane: ControlPlane) -> None:
    plane.start_all("state")
    plane.start("apiserver", "m1")
    answers = lambda: plane.kubectl("get", "--raw", "/readyz").stdout  # noqa: E731
    eventually(answers, lambda said: said == "ok", what="the API server is ready", within_s=100)


def objects(plane: ControlPlane) -> dict[tuple[str, str], dict[str, Any]]:
    """All there are, by kind and name, without what a write of the API server's own may change meanwhile."""
    found = plane.kubectl("get", KINDS, "-A", "-o", "json")
    assert found.returncode == 0, found.stderr
    items = json.loads(found.stdout)["items"]
    return {
        (item["kind"], f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"): item for item in items
    }


def throw_away(plane: ControlPlane) -> None:
    """Machines, keys, disks."""
    plane.stop()
    shutil.rmtree(plane.config.base)


@pytest.mark.timeout(300)
def test_every_object_is_back_in_a_new_cluster(tmp_path: Path) -> None:
    saved, keys = tmp_path / "saved.db", tmp_path / "keys"
    old = ControlPlane(new_config(tmp_path / "old", NETWORK))
    try:
        old.found()
        start(old)
        done = old.kubectl("apply", "-f", "-", stdin=OBJECTS)
        assert done.returncode == 0, done.stderr
        before = objects(old)
        document = old.sk8_json("snapshot", "save", str(saved), "--keys", str(keys))
        assert document and document["members"] == [1, 2, 3]
        late = old.kubectl("create", "configmap", "after-the-snapshot", "-n", "shop")
        assert late.returncode == 0, late.stderr
        throw_away(old)
        assert b"correct horse" not in saved.read_bytes(), "Secrets are in it encrypted"

        new = ControlPlane(new_config(tmp_path / "new", NETWORK))
        restored = new.sk8_json("snapshot", "restore", str(saved), "--keys", str(keys))
        assert restored["cluster_id"] != old.config.cluster_id
        new.config = load_cluster(new.config.base_dir)
        try:
            for spec in new.config.machines:
                new.join(spec.name)
            start(new)
            assert objects(new) == before
            secret = new.kubectl("get", "secret", "password", "-n", "shop", "-o", "jsonpath={.data.password}")
            assert secret.stdout == "Y29ycmVjdCBob3JzZQ=="
            assert [m["id"] for m in new.sk8_json("member", "list")] == [4, 5, 6], "nobody speaks for an old member"

            # It takes writes; and who watched the old cluster is told to list again, not left with a gap.
            assert new.kubectl("create", "configmap", "new", "-n", "shop").returncode == 0
            last = max(int(item["metadata"]["resourceVersion"]) for item in before.values())
            path = f"/api/v1/namespaces/shop/configmaps?watch=1&timeoutSeconds=5&resourceVersion={last}"
            said = new.kubectl("get", "--raw", path)
            assert '"reason":"Expired"' in said.stdout + said.stderr or "too old" in said.stdout + said.stderr
        finally:
            new.stop()
    finally:
        old.stop()
