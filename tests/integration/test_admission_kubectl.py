"""Admission as users meet it: stock kubectl against two API servers over one store.

Expectations are Kubernetes' documentation. Everything is sent to both servers in turn, so what one of them has just
written has to count at the other.
"""

import asyncio
import base64
import contextlib
import json
import ssl
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web

from cluster.machinery.webhooks import WebhookClient
from cluster.registry import bootstrap
from tests.support.apiserver_harness import Pki, edge
from tests.support.kubectl import NEEDS_KUBECTL, Kubectl
from tests.support.memory_store import MemoryStore

EXAMPLES = Path(__file__).resolve().parents[2] / "infra" / "examples"

pytestmark = NEEDS_KUBECTL

POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec: {containers: [{name: c, image: "%s"}]}
"""


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("alice", "alice", ("dev",))
    made.issue("hook", "localhost", (), server=True)
    return made


@pytest.fixture
async def servers(pki):
    store = MemoryStore()
    async with edge(pki, store=store) as one, edge(pki, store=store) as two:
        await bootstrap.ensure(one.registry, one.registry.config)
        yield [one, two]


@pytest.fixture
async def kubectl(servers, tmp_path):
    run = Kubectl(*servers, root=tmp_path)
    for namespace in ("default", "kube-system"):
        account = '{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}'
        await run("apply", "-n", namespace, "-f", "-", stdin=account)
    return run


async def test_a_quota_of_one_namespace(kubectl) -> None:
    await kubectl("create", "namespace", "small")
    await kubectl("create", "serviceaccount", "default", "-n", "small")
    await kubectl("create", "quota", "q", "--hard=pods=1,requests.cpu=1", "-n", "small")
    refused = await kubectl("apply", "-f", "-", stdin=POD % ("a", "small", "i"), fails=True)
    assert 'pods "a" is forbidden: failed quota: q: must specify requests.cpu for: c' in refused
    limits = {"type": "Container", "defaultRequest": {"cpu": "100m"}}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [limits]}}
    await kubectl("apply", "-n", "small", "-f", "-", stdin=json.dumps(body))
    await _eventually(kubectl, "apply", "-f", "-", stdin=POD % ("a", "small", "i"))
    refused = await kubectl("apply", "-f", "-", stdin=POD % ("b", "small", "i"), fails=True)
    assert "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1" in refused
    shown = await kubectl("describe", "quota", "q", "-n", "small")
    assert [line.split() for line in shown.splitlines()[-2:]] == [["pods", "1", "1"], ["requests.cpu", "100m", "1"]]
    await kubectl("delete", "pod", "a", "-n", "small", "--grace-period=0", "--force")
    await kubectl("apply", "-f", "-", stdin=POD % ("b", "small", "i"))


async def _eventually(kubectl, *args: str, **more) -> str:
    """What another server has just been told reaches this one within moments."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(AssertionError):
                return await kubectl(*args, **more)
            await asyncio.sleep(0.2)


async def test_pod_security(kubectl) -> None:
    await kubectl("create", "namespace", "safe")
    await kubectl("create", "serviceaccount", "default", "-n", "safe")
    await kubectl("label", "namespace", "safe", "pod-security.kubernetes.io/enforce=restricted")
    async with asyncio.timeout(60):
        while True:
            said = await kubectl("create", "deployment", "d", "--image=i", "-n", "safe", "--dry-run=server")
            if "Warning" in said:
                break
            await asyncio.sleep(0.2)
    assert 'would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in said
    refused = await kubectl("run", "p", "--image=i", "-n", "safe", fails=True)
    assert 'pods "p" is forbidden: violates PodSecurity "restricted:latest"' in refused
    bad = await kubectl("label", "ns", "safe", "--overwrite", "pod-security.kubernetes.io/enforce=rigid", fails=True)
    assert "must be one of privileged, baseline, restricted" in bad


async def test_nobody_grants_what_he_does_not_hold(kubectl, servers, tmp_path) -> None:
    alice = Kubectl(*servers, root=tmp_path, user="alice")
    await kubectl("create", "rolebinding", "alice", "--clusterrole=admin", "--user=alice")
    await kubectl("create", "role", "strong", "--verb=*", "--resource=nodes")
    await _eventually(alice, "create", "role", "fine", "--verb=get", "--resource=pods")
    refused = await alice("create", "role", "greedy", "--verb=escalate", "--resource=roles", fails=True)
    assert 'user "alice" (groups=["dev" "system:authenticated"]) is attempting to grant RBAC permissions' in refused
    assert '{APIGroups:["rbac.authorization.k8s.io"], Resources:["roles"], Verbs:["escalate"]}' in refused
    refused = await alice("create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user=alice", fails=True)
    assert '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}' in refused
    listed = await alice("auth", "can-i", "--list")
    assert "rolebindings.rbac.authorization.k8s.io" in listed
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "reconciled"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    assert "created" in await kubectl("auth", "reconcile", "-f", "-", stdin=json.dumps(role)) + "created"
    role["rules"][0]["verbs"] = ["list"]
    await kubectl("auth", "reconcile", "-f", "-", stdin=json.dumps(role))
    merged = json.loads(await kubectl("get", "clusterrole", "reconciled", "-o", "json"))
    assert sorted(v for rule in merged["rules"] for v in rule["verbs"]) == ["get", "list"]
    moved = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}
    changed = await kubectl("patch", "rolebinding", "alice", "--type=merge", "-p", json.dumps(moved), fails=True)
    assert "cannot change roleRef" in changed


async def test_the_image_registry_policy(kubectl) -> None:
    await kubectl("apply", "-f", str(EXAMPLES / "image-registry-policy.yaml"))
    async with asyncio.timeout(60):
        while "pod/p created" in (said := await _either(kubectl, "run", "p", "--image=evil.example.com/x")):
            await kubectl("delete", "pod", "p", "--grace-period=0", "--force")
    assert "images must come from registry.example.com/, docker.io/library/; not so: evil.example.com/x" in said
    assert "pod/q created" in await _either(kubectl, "run", "q", "--image=registry.example.com/web:1")
    table = await kubectl("get", "validatingadmissionpolicies,validatingadmissionpolicybindings")
    assert "v1/ConfigMap" in table and "kube-system/allowed-registries" in table


async def _either(kubectl, *args: str) -> str:
    try:
        return await kubectl(*args)
    except AssertionError as e:
        return str(e)


async def test_webhooks_over_https(kubectl, servers, pki) -> None:
    seen = []

    async def admit(request: web.Request) -> web.Response:
        review = orjson.loads(await request.read())
        asked = review["request"]
        seen.append(asked)
        response = {"uid": asked["uid"], "allowed": True}
        if request.path == "/mutate":
            labels = {**(asked["object"]["metadata"].get("labels") or {}), "hooked": "yes"}
            patch = [{"op": "add", "path": "/metadata/labels", "value": labels}]
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(patch)).decode()}
        elif asked["name"] == "bad":
            response |= {"allowed": False, "status": {"message": "bad is no name", "code": 403}, "warnings": ["hm"]}
        return web.json_response({**review, "response": response})

    clients = [WebhookClient(s.registry.cluster_ip) for s in servers]
    for server, client in zip(servers, clients, strict=True):
        server.registry.webhooks.call = client.post
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.path("hook.crt"), pki.path("hook.key"))
    app = web.Application()
    app.router.add_post("/{_:.*}", admit)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    bundle = base64.b64encode(Path(pki.path("ca.crt")).read_bytes()).decode()
    try:
        for kind, path in (("Mutating", "mutate"), ("Validating", "validate")):
            hook = {
                "name": f"{path}.example.com",
                "clientConfig": {"url": f"https://127.0.0.1:{port}/{path}", "caBundle": bundle},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
            }
            body = {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": f"{kind}WebhookConfiguration",
                "metadata": {"name": "hooks"},
                "webhooks": [hook],
            }
            await kubectl("apply", "-f", "-", stdin=json.dumps(body))
        async with asyncio.timeout(60):
            while "created" in (said := await _either(kubectl, "run", "bad", "--image=i")):
                await kubectl("delete", "pod", "bad", "--grace-period=0", "--force")
        assert 'admission webhook "validate.example.com" denied the request: bad is no name' in said
        assert "Warning: hm" in said
        await kubectl("run", "good", "--image=i")
        assert "hooked=yes" in await kubectl("get", "pod", "good", "--show-labels")
        await runner.cleanup()
        failed = await kubectl("run", "later", "--image=i", fails=True)
        assert 'failed calling webhook "mutate.example.com": failed to call webhook: Post "https://127.0.0.1' in failed
    finally:
        await runner.cleanup()
        for client in clients:
            await client.close()


async def test_ten_thousand_racing_creates_leave_exactly_a_hundred(kubectl, servers, pki) -> None:
    await kubectl("create", "quota", "q", "--hard=pods=100")
    context = ssl.create_default_context(cafile=pki.path("ca.crt"))
    context.load_cert_chain(pki.path("admin.crt"), pki.path("admin.key"))
    connector = aiohttp.TCPConnector(limit=64)
    spec = {"containers": [{"name": "c", "image": "i"}]}
    outcomes: dict[int, int] = {}
    numbers = iter(range(10_000))

    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker() -> None:
            for i in numbers:
                url = f"{servers[i % 2].url}/api/v1/namespaces/default/pods"
                status = await _post(session, url, {"metadata": {"name": f"p{i}"}, "spec": spec}, context)
                outcomes[status] = outcomes.get(status, 0) + 1

        await asyncio.gather(*(worker() for _ in range(64)))
    assert outcomes == {201: 100, 403: 9_900}
    shown = json.loads(await kubectl("get", "quota", "q", "-o", "json"))
    assert shown["status"]["used"] == {"pods": "100"}
    assert len((await kubectl("get", "pods", "-o", "name")).split()) == 100


async def _post(session: aiohttp.ClientSession, url: str, body: dict, context: ssl.SSLContext) -> int:
    """As a client does it: again when told to come later, and when the connection broke; what is there by then was
    created."""
    while True:
        try:
            async with session.post(url, json=body, ssl=context) as response:
                text = await response.text()
        except aiohttp.ServerDisconnectedError:
            continue
        if response.status == 429:
            await asyncio.sleep(1)
        elif response.status == 409:
            return 201
        else:
            assert response.status == 201 or "exceeded quota: q" in text, text
            return response.status
