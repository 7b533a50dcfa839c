#!/usr/bin/env python3
"""Deploy the three-tier demo with stock kubectl, wait for it with progress, and show one request through all tiers.

Standard library only. Idempotent: on a cluster that has the demo it just shows the request.

    python3 infra/demo.py [--timeout SECONDS] [--node IP]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MANIFESTS = Path(__file__).resolve().parent / "manifests" / "demo"
DEPLOYMENTS = ("postgres", "api", "web")
NODE_PORT = 30080


def kubectl(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(["kubectl", *argv], input=stdin, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip()
        hint = "; is the cluster up? sk8 status" if "refused" in why or "connect" in why.lower() else ""
        raise SystemExit(f"demo: kubectl {' '.join(argv[:3])}: {why}{hint}")
    return done.stdout


def check_context() -> None:
    """The demo goes to the current context: never silently to somebody's other cluster."""
    done = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True)
    current = done.stdout.strip()
    if current != "sk8":
        raise SystemExit(
            f"demo: kubectl's current context is {current or 'not set'}, not sk8; "
            "kubectl config use-context sk8 (sk8 up makes it)"
        )


def ensure_password() -> None:
    """The database's password: made once, kept only in the cluster's Secret."""
    have = kubectl("get", "secret", "postgres", "--ignore-not-found", "-o", "name")
    if have:
        return
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "postgres", "labels": {"app": "postgres"}},
        "stringData": {"password": secrets.token_urlsafe(24)},
    }
    kubectl("create", "-f", "-", stdin=json.dumps(secret))


def ready_counts() -> dict[str, tuple[int, int]]:
    """(ready, wanted) replicas of each of the demo's Deployments."""
    items = json.loads(kubectl("get", "deployments", *DEPLOYMENTS, "-o", "json"))["items"]
    return {
        item["metadata"]["name"]: (
            min(item.get("status", {}).get("updatedReplicas", 0), item.get("status", {}).get("availableReplicas", 0)),
            item["spec"]["replicas"],
        )
        for item in items
    }


def wait_ready(timeout_s: float) -> None:
    """One line that is redrawn on a terminal; elsewhere a line for every change."""
    terminal = sys.stdout.isatty()
    started = time.monotonic()
    shown = ""
    while True:
        counts = ready_counts()
        line = "   ".join(f"{name} {ready}/{wanted}" for name, (ready, wanted) in counts.items())
        elapsed = time.monotonic() - started
        if terminal:
            print(f"\r\033[K  {elapsed:5.1f} s   {line}", end="", flush=True)
        elif line != shown:
            print(f"  {elapsed:5.1f} s   {line}", flush=True)
        shown = line
        if all(ready >= wanted for ready, wanted in counts.values()):
            if terminal:
                print()
            return
        if elapsed > timeout_s:
            if terminal:
                print()
            sys.stdout.flush()
            print(kubectl("get", "pods", "-o", "wide"), file=sys.stderr)
            print(kubectl("get", "events", "--field-selector", "type=Warning"), file=sys.stderr)
            raise SystemExit(
                f"demo: not ready after {timeout_s:.0f} s; the table above shows which pod waits, "
                "`kubectl describe pod NAME` says for what"
            )
        time.sleep(0.25)


def request(url: str, body: dict[str, str] | None = None) -> dict[str, object]:
    data = json.dumps(body).encode() if body is not None else None
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def show(node: str) -> None:
    """One row written and read back through nginx, the API and PostgreSQL."""
    url = f"http://{node}:{NODE_PORT}/api/users"
    deadline = time.monotonic() + 20
    while True:
        try:
            added = request(url, {"name": f"visitor-{secrets.token_hex(2)}"})
            listed = request(url)
            break
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"demo: {url} does not answer: {error}; try `kubectl get endpointslices`") from error
            time.sleep(0.3)
    print(f"\n  POST {url}  ->  {json.dumps(added)}")
    print(f"  GET  {url}  ->  {json.dumps(listed)[:200]}")
    print("       (nginx -> Python API -> PostgreSQL, by DNS name and Service address)")


NEXT = """
What to try next:
  kubectl get pods -o wide                              where everything runs
  kubectl get nodes                                     the machines
  kubectl scale deployment api --replicas=5             more of it
  kubectl delete pod -l app=api                         watch them come back: kubectl get pods -w
  kubectl exec -it deploy/postgres -- psql -h /run/postgresql -U app -c 'select * from users'
  .venv/bin/sk8 machine kill m1                         a power failure; then kubectl get nodes,pods -o wide
  .venv/bin/sk8 machine start m1
  curl http://{node}:{port}/api/users                the demo, on a NodePort of any machine
  make down                                             remove everything"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds to wait for the pods (default 180)")
    parser.add_argument("--node", default="10.89.0.11", help="the machine whose NodePort is asked")
    args = parser.parse_args()
    if not shutil.which("kubectl"):
        raise SystemExit("demo: kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/")
    check_context()
    print("Demo: three tiers (nginx, Python API, PostgreSQL on a volume)", flush=True)
    ensure_password()
    kubectl("apply", "-f", str(MANIFESTS))
    wait_ready(args.timeout)
    show(args.node)
    print(NEXT.format(node=args.node, port=NODE_PORT))


def run() -> int:
    """`demo.py | head` ends quietly when its reader does; what was deployed goes on."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
    except KeyboardInterrupt:
        print("\ndemo: interrupted; what was deployed goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
