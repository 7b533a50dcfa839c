"""What a manifest becomes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.node.static_spec import HASH, MIRROR, ManifestError, is_mirror, is_static, mirror_of, static_pod

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {tier: front}}
spec:
  containers: [{name: c, image: "app:1"}]
"""
HEAD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
NODE = {"metadata": {"name": "m1", "uid": "node-uid"}}


def made(text: str = MANIFEST, path: str = "/etc/m/web.yaml") -> dict[str, Any]:
    return static_pod(text, path, "m1", 1_000_000_000.5)


def test_a_manifest_becomes_a_pod_of_this_node() -> None:
    pod = made()
    assert (pod["metadata"]["name"], pod["metadata"]["namespace"]) == ("web-m1", "default")
    assert pod["spec"]["nodeName"] == "m1" and pod["spec"]["restartPolicy"] == "Always"
    assert {"operator": "Exists", "effect": "NoExecute"} in pod["spec"]["tolerations"]
    notes = pod["metadata"]["annotations"]
    assert notes["kubernetes.io/config.source"] == "file" and notes[HASH] == pod["metadata"]["uid"]
    assert notes["kubernetes.io/config.seen"].startswith("2001-09-09T01:46:40.5")
    assert is_static(pod) and not is_mirror(pod)


def test_the_uid_follows_the_contents_and_the_place() -> None:
    assert made()["metadata"]["uid"] == made()["metadata"]["uid"]
    assert made(MANIFEST.replace("app:1", "app:2"))["metadata"]["uid"] != made()["metadata"]["uid"]
    assert made(path="/etc/m/other.yaml")["metadata"]["uid"] != made()["metadata"]["uid"]


def test_its_mirror_names_the_pod_and_belongs_to_the_node() -> None:
    pod = made()
    mirror = mirror_of(pod, NODE)
    assert is_mirror(mirror) and not is_static(mirror) and "uid" not in mirror["metadata"]
    assert mirror["metadata"]["annotations"][MIRROR] == pod["metadata"]["uid"]
    assert mirror["metadata"]["labels"] == {"tier": "front"}
    owner = mirror["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Node", "m1", "node-uid", True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("[]", "not a Pod"),
        (MANIFEST.replace("kind: Pod", "kind: Service"), "not a Pod"),
        (MANIFEST.replace("name: web", "nome: web"), "metadata.name"),
        (MANIFEST.replace("name: c", "name: C_"), "spec.containers"),
        (MANIFEST.replace("spec:", "spec: 5\nother:"), "must be objects"),
        (json.dumps({**HEAD, "spec": {"containers": 3}}), "not a pod|containers"),
    ],
)
def test_what_is_no_pod_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        made(text)
