"""infra/examples/log-shipper.yaml against a receiver: what a container says arrives, once, with where it comes from."""

from __future__ import annotations

import json
import secrets
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.machine.config import load_cluster
from tests.e2e.conftest import BASE, ROOT, Cluster, eventually, machines

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

MANIFEST = ROOT / "infra" / "examples" / "log-shipper.yaml"
DEFAULTS = "logs.logging.svc.cluster.local", '"5140"'


@dataclass
class Receiver:
    """JSON lines by TCP, on the box."""

    address: tuple[str, int]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def saying(self, text: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if str(line["log"]).endswith(text)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver(("", 0))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                found.lines.append(json.loads(line))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    with Server((load_cluster(BASE).host_ip, 0), Handler) as server:
        found.address = str(server.server_address[0]), int(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@pytest.fixture
def shipping(cluster: Cluster, receiver: Receiver) -> Iterator[Cluster]:
    image = "rsyslog/rsyslog:8.2302.0"
    subprocess.run(["python3", str(ROOT / "infra" / "images" / "build.py"), image], check=True, timeout=300)
    host, port = receiver.address
    manifest = MANIFEST.read_text().replace(DEFAULTS[0], host).replace(DEFAULTS[1], f'"{port}"')
    try:
        cluster.kubectl("apply", "-f", "-", stdin=manifest)
        rollout = ("rollout", "status", "daemonset/log-shipper", "-n", "logging", "--timeout=120s")
        cluster.kubectl(*rollout, timeout_s=150)
        yield cluster
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=90s", stdin=manifest, timeout_s=120)
        shutil.rmtree("/var/lib/log-shipper", ignore_errors=True)  # what the machines share with the box


def test_what_a_container_says_arrives_from_every_machine(shipping: Cluster, receiver: Receiver) -> None:
    """Local machines share the box's /var/log, so each of them ships every line."""
    said = f"said-{secrets.token_hex(6)}"
    shipping.kubectl("run", "says", "-n", "logging", "--image=busybox:1.36", "--restart=Never", "--", "echo", said)
    lines = eventually(
        lambda: receiver.saying(said),
        lambda found: {line["node"] for line in found} == set(machines()),
        within_s=120,
        what="the line has arrived from every machine",
    )
    uid = shipping.get("pod", "says", "-n", "logging")["metadata"]["uid"]
    assert {line["file"] for line in lines} == {f"/var/log/pods/logging_says_{uid}/says/0.log"}
    assert sorted(line["node"] for line in lines) == machines(), "from each of them once"
    time, stream, whole, text = str(lines[0]["log"]).split(" ", 3)
    assert (stream, whole, text) == ("stdout", "F", said) and time.endswith("Z")
