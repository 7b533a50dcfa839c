"""What the demonstrations of this directory watch a cluster with: all that happens in a namespace, and when.

Standard library and stock kubectl only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

WATCHED = {
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "pods": "api/v1",
    "services": "api/v1",
    "endpointslices": "apis/discovery.k8s.io/v1",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """`at` in seconds since the epoch; `revision` of the store, 0 where nothing is written."""

    at: float
    resource: str
    type: str
    obj: dict[str, Any]

    @property
    def revision(self) -> int:
        return int(self.obj["metadata"]["resourceVersion"])

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])


@dataclass
class Watcher:
    """All that happens in the namespace, as an API server tells it."""

    base: str
    namespace: str
    seen: list[Seen] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        for resource, group in WATCHED.items():
            self.follow(resource, f"{self.base}/{group}/namespaces/{self.namespace}/{resource}")

    def follow(self, resource: str, url: str) -> None:
        with urllib.request.urlopen(url, timeout=10) as answer:
            revision = json.load(answer)["metadata"]["resourceVersion"]
        threading.Thread(target=self._keep, args=(resource, url, revision), daemon=True).start()

    def _keep(self, resource: str, url: str, revision: str) -> None:
        """The API server that is asked may be the one that falls silent: then another is, from where it stopped."""
        while True:
            with (
                contextlib.suppress(OSError, ValueError, http.client.HTTPException),
                urllib.request.urlopen(f"{url}?watch=1&resourceVersion={revision}", timeout=600) as stream,
            ):
                for line in stream:
                    revision = self._take(resource, json.loads(line))
            time.sleep(0.1)

    def _take(self, resource: str, event: dict[str, Any]) -> str:
        seen = Seen(time.time(), resource, event["type"], event["object"])
        if seen.type == "ERROR":
            raise ValueError(f"watching {resource}: {event['object'].get('message')}")
        with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()
        return str(seen.revision)

    def until(self, what: str, matches: Callable[[Seen], bool], count: int = 1, within_s: float = 120) -> list[Seen]:
        """The first event of each of `count` objects that matches."""
        deadline = time.monotonic() + within_s
        with self.changed:
            while True:
                first: dict[str, Seen] = {}
                for seen in self.seen:
                    if matches(seen):
                        first.setdefault(seen.name, seen)
                if len(first) >= count:
                    return list(first.values())
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SystemExit(f"{what}: not within {within_s:.0f} s")
                self.changed.wait(left)


@dataclass
class Timeline:
    """`rows`: (milliseconds since the request, step, what happened, revisions)."""

    began: float
    rows: list[tuple[float, int, str, str]] = field(default_factory=list)

    def add(self, step: int, at: float, what: str, revisions: str = "") -> float:
        ms = (at - self.began) * 1e3
        self.rows.append((ms, step, what, revisions))
        return ms

    def show(self) -> Iterator[str]:
        for ms, step, what, revisions in sorted(self.rows):
            yield f"t={ms:8.0f} ms  step {step:2d}  {what}{f'  (revision {revisions})' if revisions else ''}"


def kubectl(*argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["kubectl", *argv], input=stdin, capture_output=True, text=True, timeout=200)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(argv[:4])}: {done.stderr.strip()[-500:]}")
    return done


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    with subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield "http://" + line.rsplit(" ", 1)[-1].strip()
        finally:
            process.kill()


def condition(seen: Seen, kind: str) -> bool:
    conditions = seen.obj.get("status", {}).get("conditions", ())
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def ready_addresses(seen: Seen) -> int:
    return sum(bool(e["conditions"]["ready"]) for e in seen.obj.get("endpoints") or ())
