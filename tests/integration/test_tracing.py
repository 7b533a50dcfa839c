"""One request's spans through API server and store, a bind's through scheduler and store, as a collector gets them.

Real parts as processes, wired as their actors wire them, one control plane; a collector of the test's own.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, eventually, new_config
from tests.support.otlp_receiver import Got, Received, receiving

NETWORK = 71
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATH = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def received() -> Iterator[Received]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, received: Received) -> Iterator[ControlPlane]:
    tracing = {"endpoint": received.endpoint, "samplingRatePerMillion": 1_000_000}
    made = ControlPlane(new_config(tmp_path_factory.mktemp("traced") / "base", NETWORK, machines=1, tracing=tracing))
    try:
        made.found()
        for role in ("state", "apiserver", "scheduler"):
            made.start(role, "m1")
        ready = lambda: made.kubectl("get", "--raw", "/readyz").stdout  # noqa: E731
        eventually(ready, lambda said: said == "ok", what="the API server is ready", within_s=100)
        yield made
    finally:
        made.stop()


def post(plane: ControlPlane, name: str, identity: tuple[Path, Path], traceparent: str) -> int:
    """Create a ConfigMap, as who the certificate says; the answer's code."""
    context = ssl.create_default_context(cafile=str(plane.config.pki / "ca.crt"))
    context.load_cert_chain(*identity)
    server = f"https://{plane.config.spec('m1').ip}:{plane.config.api_port}"
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).encode()
    headers = {"Content-Type": "application/json", "traceparent": traceparent}
    call = urllib.request.Request(server + PATH, body, headers)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoErrors())
    with opener.open(call, timeout=60) as answer:
        return int(answer.status)


class _NoErrors(urllib.request.HTTPErrorProcessor):
    def http_response(self, request, response):  # type: ignore[no-untyped-def]
        return response

    https_response = http_response


def _one(received: Received, service: str, name: str, trace: str) -> Got:
    found = eventually(
        lambda: received.named(service, name, trace), lambda spans: len(spans) == 1, what=f"{service}: {name}"
    )
    return found[0]


def test_an_administrators_traceparent_leads_from_the_request_to_the_store(
    plane: ControlPlane, received: Received
) -> None:
    admin = plane.config.pki / "admin.crt", plane.config.pki / "admin.key"
    assert post(plane, "seen", admin, f"00-{TRACE}-{SPAN}-01") == 201
    request = _one(received, "apiserver", "POST /api/v1/namespaces/{:namespace}/configmaps", TRACE)
    assert request.parent == SPAN
    assert request.attributes["http.status_code"] == 201
    assert request.attributes["http.target"] == PATH and request.attributes["audit-id"]
    create = _one(received, "apiserver", "Create", TRACE)
    assert create.parent == request.id
    asked = eventually(
        lambda: [s for s in received.children(create) if s.name == "etcdserverpb.KV/Txn"],
        bool,
        what="the transaction as the API server sees it",
    )
    done = eventually(lambda: received.children(asked[0]), bool, what="the same as the store sees it")
    assert {(s.service, s.name, s.trace) for s in done} == {("etcd", "etcdserverpb.KV/Txn", TRACE)}


def test_a_strangers_traceparent_is_only_a_link(plane: ControlPlane, received: Received) -> None:
    pki = plane.config.machine("m1").pki
    trace = TRACE[::-1]
    assert post(plane, "refused", (pki / "node.crt", pki / "node.key"), f"00-{trace}-{SPAN}-01") == 403
    linked = eventually(
        lambda: [s for s in received.spans if trace in s.links], lambda spans: len(spans) == 1, what="the request"
    )
    assert linked[0].name == "POST /api/v1/namespaces/{:namespace}/configmaps"
    assert (linked[0].attributes["http.status_code"], linked[0].parent) == (403, "")
    assert not [s for s in received.spans if s.trace == trace]


def test_the_scheduler_and_what_it_asks_of_the_store(plane: ControlPlane, received: Received) -> None:
    room = {"cpu": "2", "memory": "4Gi", "pods": "10"}
    ready = [{"type": "Ready", "status": "True"}]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    node["status"] = {"allocatable": room, "capacity": room, "conditions": ready}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bound"}}
    pod["spec"] = {"containers": [{"name": "c", "image": "x"}], "tolerations": [{"operator": "Exists"}]}
    for body in (node, account, pod):
        made = plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
        assert made.returncode == 0, made.stderr
    where = lambda: plane.kubectl("get", "pod", "bound", "-o", "jsonpath={.spec.nodeName}").stdout  # noqa: E731
    eventually(where, lambda name: name == "n1", what="the pod is bound")
    bound = lambda: [  # noqa: E731
        s for s in received.named("kube-scheduler", "Scheduling") if s.attributes["name"] == "bound"
    ]
    batch = eventually(bound, bool, what="the batch's span")[-1]
    asked = eventually(
        lambda: [s for s in received.children(batch) if s.name == "etcdserverpb.KV/Txn"], bool, what="the bind"
    )
    done = eventually(lambda: received.children(asked[0]), bool, what="the bind as the store sees it")
    assert {(s.service, s.name) for s in done} == {("etcd", "etcdserverpb.KV/Txn")}
