"""The audit log: events as JSON lines in a file that is rotated by size. IO: the file, in a thread.

Requests never wait for the disk: events gather and are written together a few times a second, all of them before the
server ends. When the disk does not keep up, events above _MOST are dropped and counted
(`apiserver_audit_requests_rejected_total`). Rotated files are `<name>-<time>.log`, mode 0600 like the log itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from cluster.apiserver import audit, metrics
from cluster.apiserver.audit import Judgement, Policy, Subject

log = logging.getLogger(__name__)

_FLUSH_S = 0.2
_MOST = 20_000


class RotatingFile:
    """Appends; begins a new file before it would grow over `max_bytes` (0: never); keeps `backups` old ones (0: all)
    that are not older than `max_age_days` (0: however old).
    """

    def __init__(self, path: str, max_bytes: int, backups: int, max_age_days: int) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._backups = backups
        self._max_age_s = max_age_days * 86400

    def append(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        size = self._path.stat().st_size if self._path.exists() else 0
        if self._max_bytes and size and size + len(data) > self._max_bytes:
            stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()) + f".{time.time_ns() // 1_000_000 % 1000:03d}"
            self._path.rename(self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}"))
            self._clean()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)

    def _clean(self) -> None:
        old = sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}"))
        now = time.time()
        expired = [p for p in old if self._max_age_s and now - p.stat().st_mtime > self._max_age_s]
        too_many = old[: len(old) - self._backups] if self._backups else []
        for path in {*expired, *too_many}:
            path.unlink(missing_ok=True)


class AuditLog:
    """Notes requests by a policy."""

    def __init__(self, policy: Policy, file: RotatingFile, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._file = file
        self._clock = clock
        self._pending: deque[dict[str, Any]] = deque()

    def now(self) -> float:
        return self._clock()

    def begin(self, subject: Subject) -> Judgement:
        judgement = self._policy.judge(subject.user, subject.info)
        if judgement.notes(audit.RECEIVED):
            self._add(audit.event(judgement, subject, audit.RECEIVED, subject.received))
        return judgement

    def started(self, judgement: Judgement, subject: Subject) -> None:
        """A long-running request was accepted."""
        if judgement.notes(audit.STARTED):
            event = audit.event(judgement, subject, audit.STARTED, self._clock())
            self._add(event | {"responseStatus": {"metadata": {}, "code": 200}})

    def complete(
        self,
        judgement: Judgement,
        subject: Subject,
        code: int,
        sent: bytes,
        answered: bytes,
        *,
        allowed: bool,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """`sent` and `answered` are bodies, b"" where there is none to note; `allowed`: by the authorizer;
        `annotations` is what admission has to say."""
        if not judgement.notes(audit.COMPLETE):
            return
        event = audit.event(judgement, subject, audit.COMPLETE, self._clock())
        event["responseStatus"] = audit.response_status(code, answered)
        if judgement.level in (audit.REQUEST, audit.REQUEST_RESPONSE) and sent:
            event["requestObject"] = audit.noted_object(sent, judgement)
        if judgement.level == audit.REQUEST_RESPONSE and answered:
            event["responseObject"] = audit.noted_object(answered, judgement)
        decision = "allow" if allowed else "forbid"
        verdict = {"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": ""}
        event["annotations"] = {**(annotations or {}), **verdict}
        self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        if len(self._pending) >= _MOST:
            metrics.AUDIT_REJECTED.inc()
            return
        metrics.AUDIT_EVENTS.inc()
        self._pending.append(event)

    async def run(self) -> None:
        """Write what gathers; on cancellation, what is left."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_S)
                await self._flush()
        finally:
            await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        events, self._pending = self._pending, deque()
        if not events:
            return
        try:
            await asyncio.to_thread(self._write, events)
        except OSError as e:
            metrics.AUDIT_REJECTED.inc(len(events))
            log.error("%d audit events were lost: %s", len(events), e)

    def _write(self, events: deque[dict[str, Any]]) -> None:
        self._file.append(b"".join(orjson.dumps(e) + b"\n" for e in events))
