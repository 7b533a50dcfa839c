"""Stock kubectl and the official Python client against the API server over the in-memory store.

No controllers run here: what is tested is that the clients' every request is understood and answered as they expect.
"""

import asyncio
import contextlib
import json
import shutil

import pytest
import yaml

from tests.support.apiserver_harness import Pki, edge
from tests.support.kubectl import NEEDS_KUBECTL, Kubectl

pytestmark = NEEDS_KUBECTL

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1.21", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("alice", "alice", ("dev",))
    return made


@pytest.fixture
async def server(pki):
    async with edge(pki) as running:
        yield running


@pytest.fixture
def kubectl(server, tmp_path) -> Kubectl:
    return Kubectl(server, root=tmp_path)


async def test_discovery_and_explain(kubectl):
    resources = await kubectl("api-resources")
    for line in ("pods", "deployments", "configmaps", "storageclasses", "selfsubjectaccessreviews"):
        assert f"\n{line} " in resources
    assert "apps/v1" in (await kubectl("api-versions")).split()
    assert "replicas" in await kubectl("explain", "deployment.spec")
    assert "v1.34.0+sk8" in await kubectl("version")
    assert await kubectl("get", "--raw", "/readyz") == "ok"


async def test_apply_change_and_delete(kubectl):
    assert "deployment.apps/web created" in await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    assert "deployment.apps/web unchanged" in await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    changed = DEPLOYMENT.replace("nginx:1.21", "nginx:1.22").replace("replicas: 3", "replicas: 2")
    diff = await kubectl("diff", "-f", "-", stdin=changed, fails=True) if shutil.which("diff") else "nginx:1.22"
    assert "nginx:1.22" in diff
    assert "deployment.apps/web configured" in await kubectl("apply", "-f", "-", stdin=changed)
    image = "jsonpath={.spec.template.spec.containers[0].image} {.spec.replicas}"
    assert await kubectl("get", "deploy", "web", "-o", image) == "nginx:1.22 2"
    assert "serverside-applied" in await kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=changed
    )
    assert "scaled" in await kubectl("scale", "deploy/web", "--replicas=5")
    assert "patched" in await kubectl("patch", "deploy", "web", "-p", '{"spec":{"paused":true}}')
    jsonpatch = '[{"op":"replace","path":"/spec/replicas","value":4}]'
    assert "patched" in await kubectl("patch", "deploy", "web", "--type=json", "-p", jsonpatch)
    assert "labeled" in await kubectl("label", "deploy", "web", "tier=front")
    assert "annotated" in await kubectl("annotate", "deploy", "web", "note=hello")
    assert "image updated" in await kubectl("set", "image", "deploy/web", "nginx=nginx:1.23")
    edited = await kubectl("edit", "deploy", "web", KUBE_EDITOR="sed -i s/nginx:1.23/nginx:1.24/")
    assert "edited" in edited
    found = json.loads(await kubectl("get", "deploy", "web", "-o", "json"))
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1.24"
    assert (found["spec"]["replicas"], found["spec"]["paused"]) == (4, True)
    assert found["metadata"]["labels"]["tier"] == "front"
    assert "deleted" in await kubectl("delete", "-f", "-", stdin=DEPLOYMENT)
    assert "NotFound" in await kubectl("get", "deploy", "web", fails=True)


async def test_from_client_side_to_server_side_apply_and_back(kubectl):
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    changed = DEPLOYMENT.replace("nginx:1.21", "nginx:1.22")
    assert "Apply failed with" in await kubectl(
        "apply", "--server-side", "--field-manager=another", "-f", "-", stdin=changed, fails=True
    )
    if shutil.which("diff"):
        assert "nginx:1.22" in await kubectl("diff", "--server-side", "-f", "-", stdin=changed, fails=True)
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=changed)
    assert "nginx:1.22" in await kubectl("apply", "view-last-applied", "deploy/web")
    assert "deployment.apps/web configured" in await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)


async def test_an_apply_set_prunes_what_left_it(kubectl):
    one, two = ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n}} for n in ("one", "two"))
    prune = ("apply", "-f", "-", "-n", "default", "--prune", "--applyset=secret/mine")
    await kubectl(*prune, stdin=yaml.safe_dump_all([one, two]), KUBECTL_APPLYSET="true")
    out = await kubectl(*prune, stdin=yaml.safe_dump(one), KUBECTL_APPLYSET="true")
    assert out.splitlines() == ["configmap/one unchanged", "configmap/two pruned"]


async def test_subresources(kubectl):
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    scale = ("deploy", "web", "--subresource=scale")
    assert "patched" in await kubectl("patch", *scale, "--type=merge", "-p", '{"spec":{"replicas":5}}')
    header, row = (await kubectl("get", *scale)).splitlines()
    assert header.split() == ["NAME", "DESIRED", "AVAILABLE", "AGE"]
    assert row.split()[:3] == ["web", "5", "0"]
    wrong = await kubectl("patch", "deploy", "web", "-p", '{"metadata":{"labels":"no"}}', fails=True)
    assert 'patch: Invalid value: "map[metadata:map[labels:no]]": cannot restore map from string' in wrong


async def test_printing(kubectl):
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    table = (await kubectl("get", "deploy,svc")).splitlines()
    assert table[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert table[1].split()[:4] == ["deployment.apps/web", "0/3", "0", "0"]
    wide = await kubectl("get", "deploy", "-o", "wide")
    assert wide.split()[:8] == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert "app=web" in wide
    everywhere = await kubectl("get", "svc", "-A")
    assert everywhere.split()[:7] == ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert "kubernetes" in everywhere
    assert yaml.safe_load(await kubectl("get", "svc", "web", "-o", "yaml"))["spec"]["clusterIP"].startswith("10.")
    assert await kubectl("get", "deploy", "-o", "name") == "deployment.apps/web\n"
    assert "web" in await kubectl("get", "all", "-l", "app=web")
    whole = await kubectl("get", "clusterroles", "-o", "name")
    assert await kubectl("get", "clusterroles", "--chunk-size=3", "-o", "name") == whole
    assert "StrategyType" in await kubectl("describe", "deploy", "web")
    assert "No resources found" in await kubectl("get", "pods")
    custom = await kubectl("get", "deploy", "-o", "custom-columns=N:.metadata.name", "--sort-by=.metadata.name")
    assert custom.split() == ["N", "web"]


async def test_create_and_its_errors(kubectl):
    assert "created" in await kubectl("create", "configmap", "c", "--from-literal=a=b")
    assert "already exists" in await kubectl("create", "configmap", "c", fails=True)
    assert "created" in await kubectl("create", "ns", "team")
    assert "created" in await kubectl("create", "deployment", "d", "--image=x", "-n", "team")
    assert "created" in await kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    assert "created" in await kubectl("create", "serviceaccount", "robot")
    assert "created (server dry run)" in await kubectl("create", "configmap", "no", "--dry-run=server")
    bad = DEPLOYMENT.replace("replicas: 3", "replicas: -3")
    assert "must be greater than or equal to 0" in await kubectl("create", "-f", "-", stdin=bad, fails=True)
    typo = DEPLOYMENT.replace("replicas: 3", "replica: 3")
    assert 'unknown field "spec.replica"' in await kubectl("create", "-f", "-", stdin=typo, fails=True)
    assert "not found" in await kubectl("create", "configmap", "x", "-n", "nowhere", fails=True)
    assert "exposed" in await kubectl("expose", "deployment", "d", "--port=80", "-n", "team")
    assert (await kubectl("create", "token", "robot")).count(".") == 2
    assert "deleted" in await kubectl("delete", "configmap", "c")
    assert "replaced" in await kubectl(
        "replace", "-f", "-", stdin=yaml.safe_dump({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}})
    )


async def test_who_am_i_and_what_may_i(server, kubectl, tmp_path):
    assert "admin" in await kubectl("auth", "whoami")
    assert "yes" in await kubectl("auth", "can-i", "delete", "nodes")
    alice = Kubectl(server, root=tmp_path, user="alice")
    assert "no" in await alice("auth", "can-i", "list", "secrets", fails=True)
    denied = await alice("get", "pods", fails=True)
    assert 'pods is forbidden: User "alice" cannot list resource "pods"' in denied
    await kubectl("create", "role", "r", "--verb=get,list,watch", "--resource=pods")
    await kubectl("create", "rolebinding", "rb", "--role=r", "--user=alice")
    assert "No resources found" in await alice("get", "pods")
    assert "pods" in await alice("auth", "can-i", "--list")
    assert "yes" in await kubectl("auth", "can-i", "list", "pods", "--as", "alice")


async def test_watch_prints_rows(kubectl):
    process = await kubectl.start("get", "configmaps", "-w", "--no-headers")
    assert process.stdout is not None
    try:
        await asyncio.sleep(1.0)
        await kubectl("create", "configmap", "seen", "--from-literal=a=b")
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        while b"seen" not in line:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.split()[:2] == [b"seen", b"1"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_official_python_client(server, kubectl, tmp_path):
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    names, events = await asyncio.to_thread(_python_client, str(kubectl.kubeconfigs[0]))
    assert names == ["web"]
    assert events == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


def _python_client(kubeconfig: str):
    from kubernetes import client, config, watch

    api = config.new_client_from_config(kubeconfig)
    with api:
        names = [d.metadata.name for d in client.AppsV1Api(api).list_namespaced_deployment("default").items]
        core = client.CoreV1Api(api)
        start = core.list_namespaced_config_map("default").metadata.resource_version
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one"), data={"a": "b"})
        core.create_namespaced_config_map("default", body)
        core.patch_namespaced_config_map("one", "default", {"data": {"c": "d"}})
        core.delete_namespaced_config_map("one", "default")
        events = []
        stream = watch.Watch().stream(
            core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=2
        )
        for event in stream:
            events.append((event["type"], event["object"].metadata.name))
    return names, events
