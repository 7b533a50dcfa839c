"""Targets for a Prometheus without Kubernetes discovery (Debian builds it without): writes file_sd files, by watch.

/targets/nodes.json: every node; PART.json: those that have that part; servers.json: every API server.
Standard library only; runs beside Prometheus with its ServiceAccount.
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
TARGETS = Path("/targets")
PARTS = ("state", "scheduler", "controllers", "supervisor", "proxy")
SERVERS = (
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=kubernetes"
)


def ask(path, timeout_s):
    """An open answer of the API. The token is read each time: it is renewed."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    return urllib.request.urlopen(
        urllib.request.Request(API + path, headers=headers), timeout=timeout_s, context=context
    )


def write(name, groups):
    new = TARGETS / f".{name}"
    new.write_text(json.dumps(groups))
    new.rename(TARGETS / name)


def groups_of(names):
    return [{"targets": ["kubernetes.default.svc:443"], "labels": {"node": name}} for name in names]


def parts_of(node, known):
    """What the node's kubelet says it has; what it said before, when it is silent."""
    try:
        with ask(f"/api/v1/nodes/{node}/proxy/metrics/parts", 5) as answer:
            known[node] = json.load(answer)
    except (OSError, ValueError) as error:
        print(f"discovery: {node}: {error}", flush=True)
    return known.get(node, ())


def refresh(known):
    """Writes all files; the nodes' resourceVersion to watch from."""
    with ask("/api/v1/nodes", 10) as answer:
        listed = json.load(answer)
    nodes = sorted(n["metadata"]["name"] for n in listed["items"])
    write("nodes.json", groups_of(nodes))
    parts = {node: parts_of(node, known) for node in nodes}
    for part in PARTS:
        write(f"{part}.json", groups_of(node for node in nodes if part in parts[node]))
    with ask(SERVERS, 10) as answer:
        slices = json.load(answer)["items"]
    found = [f"{a}:{s['ports'][0]['port']}" for s in slices for e in s["endpoints"] or () for a in e["addresses"]]
    write("servers.json", [{"targets": sorted(found)}])
    return listed["metadata"]["resourceVersion"]


def watch(version):
    """Until a node comes or goes, or a few minutes are over: a status of a node is no reason."""
    with ask(f"/api/v1/nodes?watch=true&timeoutSeconds=240&resourceVersion={version}", 300) as answer:
        for line in answer:
            if json.loads(line)["type"] != "MODIFIED":
                return


if __name__ == "__main__":
    known = {}
    while True:
        try:
            watch(refresh(known))
        except (OSError, ValueError, KeyError) as error:
            print(f"discovery: {error}", flush=True)
            time.sleep(float(os.environ.get("RETRY_S", "2")))
