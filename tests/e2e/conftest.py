"""A real three-machine cluster for the README's promises: made once, removed at the end, also when a test fails.

SK8_E2E_REUSE=1 uses the cluster that runs already and leaves it running (for work on the tests themselves); then
SK8_E2E_BASE and SK8_E2E_PREFIX say which, and with SK8_E2E_DEMO=no it gets no demo, for tests that need none.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
SK8 = str(ROOT / ".venv" / "bin" / "sk8")
MACHINES = {"m1": "10.89.0.11", "m2": "10.89.0.12", "m3": "10.89.0.13"}
NODE_PORT = 30080
PREFIX = os.environ.get("SK8_E2E_PREFIX", "sk8")
"""Of namespaces on the box; another one with SK8_E2E_REUSE and a cluster that has it."""
BASE = Path(os.environ.get("SK8_E2E_BASE", "/var/lib/sk8"))
T = TypeVar("T")


def machines() -> list[str]:
    return sorted(path.name for path in (BASE / "machines").iterdir())


def eventually(look: Callable[[], T], until: Callable[[T], bool] = bool, *, within_s: float, what: str) -> T:
    """Look again until it holds; the last sight is in the failure. Errors while looking count as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        seen: Any
        try:
            seen = look()
            if until(seen):
                return seen
        except (AssertionError, OSError, KeyError, IndexError, ValueError) as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:.0f} s; last seen: {seen!r}")
        time.sleep(0.2)


@dataclass(frozen=True)
class Cluster:
    """Stock kubectl and sk8 on the running cluster."""

    kubeconfig: Path
    up_seconds: float

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *argv: str, stdin: str | None = None, timeout_s: float = 60, ok: bool = True) -> str:
        """kubectl's standard output; with ok=False both outputs, whatever it exits with."""
        done = subprocess.run(
            ["kubectl", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.env,
        )
        if not ok:
            return done.stdout + done.stderr
        assert done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stderr}"
        return done.stdout

    def get(self, *argv: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *argv, "-o", "json"))
        return found

    def sk8(self, *argv: str, timeout_s: float = 120) -> str:
        done = subprocess.run(
            [SK8, *argv, "--base", str(BASE)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.env,
        )
        assert done.returncode == 0, f"sk8 {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def pods(self, selector: str, namespace: str = "default") -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get("pods", "-n", namespace, "-l", selector)["items"]
        return items

    def node_ready(self, name: str) -> str:
        conditions = self.get("node", name)["status"]["conditions"]
        return str(next(c["status"] for c in conditions if c["type"] == "Ready"))

    def deployment_ready(self, name: str) -> bool:
        found = self.get("deployment", name)
        wanted = found["spec"]["replicas"]
        status = found["status"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("availableReplicas", 0) == wanted
            and status.get("updatedReplicas", 0) == wanted
            and status.get("replicas", 0) == wanted
        )

    def wait_demo(self, within_s: float = 60) -> None:
        for name in ("postgres", "api", "web"):
            eventually(lambda n=name: self.deployment_ready(n), within_s=within_s, what=f"deployment {name} ready")

    def users(self, node: str = "10.89.0.11") -> list[dict[str, Any]]:
        """All rows, through nginx, the API and PostgreSQL."""
        rows: list[dict[str, Any]] = ask(f"http://{node}:{NODE_PORT}/api/users")["users"]
        return rows

    def add_user(self, name: str, node: str = "10.89.0.11") -> int:
        """The id of a row that PostgreSQL has acknowledged."""
        return int(ask(f"http://{node}:{NODE_PORT}/api/users", {"name": name})["id"])


def ask(url: str, body: dict[str, str] | None = None, timeout_s: float = 5) -> dict[str, Any]:
    data = json.dumps(body).encode() if body is not None else None
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=timeout_s) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def in_machine(machine: str, *argv: str, timeout_s: float = 20) -> str:
    """Run a command in a machine's network namespace."""
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{PREFIX}-{machine}", *argv], capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{machine}: {' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


def actor_pids(actor: str, machine: str) -> set[int]:
    """Of that class of actor in that machine's network namespace."""
    found = set()
    wanted = Path(f"/run/netns/{PREFIX}-{machine}").stat().st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(f"ray::{actor}".encode()) and (
                process / "ns" / "net"
            ).stat().st_ino == wanted:
                found.add(int(process.name))
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a local cluster needs root")
    reuse = os.environ.get("SK8_E2E_REUSE") == "1"
    kubeconfig = (
        Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
        if reuse
        else tmp_path_factory.mktemp("kube") / "config"
    )
    env = os.environ | {"KUBECONFIG": str(kubeconfig)}
    started = time.monotonic()
    if not reuse:
        _run([SK8, "up"], env, 240)
        _run(["python3", str(ROOT / "infra" / "images" / "build.py")], env, 600)
    try:
        if os.environ.get("SK8_E2E_DEMO") != "no":
            _run(["python3", str(ROOT / "infra" / "demo.py")], env, 300)
        yield Cluster(kubeconfig, time.monotonic() - started)
    finally:
        if not reuse:
            _run([SK8, "down"], env, 300)


def _run(argv: list[str], env: dict[str, str], timeout_s: float) -> None:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        pytest.fail(f"{' '.join(argv)} exited {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def unreachable(error: Exception) -> bool:
    return isinstance(error, urllib.error.URLError | OSError)
