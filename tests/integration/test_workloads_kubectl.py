"""Workloads as users meet them: stock kubectl, the API server and all controllers; machines are played."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.kubectl import NEEDS_KUBECTL
from tests.support.kubectl_world import kubectl_cluster
from tests.support.signing_requests import request_pem, signing_request

pytestmark = NEEDS_KUBECTL

STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: pg, image: "postgres:16"}]}
"""
DAEMON_SET = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: a, image: "agent:1"}]}
"""


@pytest.fixture
async def cluster(tmp_path):
    async with kubectl_cluster(tmp_path) as made:
        yield made


async def test_stateful_set(cluster) -> None:
    await cluster.kubectl("apply", "-f", "-", stdin=STATEFUL_SET)
    out = await cluster.kubectl("rollout", "status", "sts/db", "--timeout=30s")
    assert "partitioned roll out complete" in out or "rolling update complete" in out
    assert (await cluster.columns("sts"))[0][:2] == ["db", "2/2"]
    assert [row[0] for row in await cluster.columns("pods")] == ["db-0", "db-1"]
    await cluster.kubectl("set", "image", "sts/db", "pg=postgres:17")
    await cluster.kubectl("rollout", "status", "sts/db", "--timeout=30s")
    history = await cluster.kubectl("rollout", "history", "sts/db")
    assert [line.split()[0] for line in history.splitlines()[2:] if line] == ["1", "2"]
    await cluster.kubectl("rollout", "undo", "sts/db")
    await cluster.kubectl("rollout", "status", "sts/db", "--timeout=30s")
    images = await cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}")
    assert images == "postgres:16 postgres:16"
    rows = await cluster.columns("controllerrevisions")
    assert sorted((r[1], r[2]) for r in rows) == [("statefulset.apps/db", "2"), ("statefulset.apps/db", "3")]
    await cluster.kubectl("scale", "sts/db", "--replicas=1")
    await cluster.kubectl("wait", "--for=delete", "pod/db-1", "--timeout=30s")


async def test_daemon_set(cluster) -> None:
    await cluster.kubectl("apply", "-f", "-", stdin=DAEMON_SET)
    out = await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    assert 'daemon set "agent" successfully rolled out' in out
    assert (await cluster.columns("ds"))[0][:7] == ["agent", "2", "2", "2", "2", "2", "<none>"]
    await cluster.kubectl("set", "image", "ds/agent", "a=agent:2")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    await cluster.kubectl("rollout", "undo", "ds/agent")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    images = await cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}")
    assert images == "agent:1 agent:1"


async def test_jobs_and_cron_jobs(cluster) -> None:
    await cluster.kubectl("create", "job", "once", "--image=busybox:1", "--", "true")
    await cluster.kubectl("wait", "--for=condition=complete", "job/once", "--timeout=30s")
    header, row = (await cluster.kubectl("get", "jobs")).splitlines()
    assert header.split() == ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]
    assert row.split()[:3] == ["once", "Complete", "1/1"]
    described = await cluster.kubectl("describe", "job", "once")
    assert "1 Succeeded" in described and "SuccessfulCreate" in described
    bad = await cluster.kubectl("create", "cronjob", "tick", "--image=busybox:1", "--schedule=every day", fails=True)
    assert 'spec.schedule: Invalid value: "every day": expected exactly 5 fields' in bad
    await cluster.kubectl("create", "cronjob", "tick", "--image=busybox:1", "--schedule=0 0 1 1 *", "--", "true")
    header, row = (await cluster.kubectl("get", "cj")).splitlines()
    assert header.split() == ["NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST", "SCHEDULE", "AGE"]
    assert row.split()[6:10] == ["<none>", "False", "0", "<none>"]
    await cluster.kubectl("create", "job", "now", "--from=cronjob/tick")
    await cluster.kubectl("wait", "--for=condition=complete", "job/now", "--timeout=30s")
    await cluster.kubectl("delete", "job", "once")
    names = [row[0] for row in await cluster.columns("pods")]
    assert len(names) == 1 and names[0].startswith("now-")


async def test_a_certificate_that_was_approved_logs_in(cluster) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = request_pem("jane", ["dev"], key=key)
    csr = signing_request("jane", "kubernetes.io/kube-apiserver-client", pem, ["client auth"])
    await cluster.kubectl("create", "-f", "-", stdin=json.dumps(csr))
    assert (await cluster.columns("csr"))[0][-1] == "Pending"
    await cluster.kubectl("certificate", "approve", "jane")
    await cluster.kubectl("wait", "--for=jsonpath={.status.certificate}", "csr/jane", "--timeout=30s")
    assert (await cluster.columns("csr"))[0][-1] == "Approved,Issued"
    issued = await cluster.kubectl("get", "csr", "jane", "-o", "jsonpath={.status.certificate}")
    (cluster.root / "jane.crt").write_bytes(base64.b64decode(issued))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (cluster.root / "jane.key").write_bytes(private)
    await cluster.kubectl("create", "rolebinding", "jane", "--clusterrole=view", "--group=dev")
    files = [
        f"--client-{kind}={cluster.root / f'jane.{suffix}'}"
        for kind, suffix in (("certificate", "crt"), ("key", "key"))
    ]
    assert "jane" in await cluster.kubectl("auth", "whoami", *files)
    await cluster.kubectl("get", "pods", *files)
    assert 'User "jane" cannot list' in await cluster.kubectl("get", "secrets", *files, fails=True)


async def test_draining_honours_a_budget(cluster) -> None:
    await cluster.kubectl("create", "deployment", "web", "--image=nginx:1", "--replicas=3")
    await cluster.kubectl("create", "pdb", "web", "--selector=app=web", "--min-available=3")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    await cluster.kubectl("wait", "--for=jsonpath={.status.currentHealthy}=3", "pdb/web", "--timeout=30s")
    refused = await cluster.kubectl("drain", "n1", "--timeout=3s", fails=True)
    assert "Cannot evict pod as it would violate the pod's disruption budget." in refused
    assert len(await cluster.columns("pods")) == 3
    await cluster.kubectl("patch", "pdb", "web", "-p", '{"spec": {"minAvailable": 2}}')
    await cluster.kubectl("wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "pdb/web", "--timeout=30s")
    assert (await cluster.columns("pdb"))[0][:4] == ["web", "2", "N/A", "1"]
    await cluster.kubectl("uncordon", "n1")  # the played scheduler puts pods there again
    pod = (await cluster.columns("pods"))[0][0]
    body = f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{pod}"}}}}'
    path = f"/api/v1/namespaces/default/pods/{pod}/eviction"
    assert "Success" in await cluster.kubectl("create", "--raw", path, "-f", "-", stdin=body)
    await cluster.kubectl("wait", "--for=delete", f"pod/{pod}", "--timeout=30s")
