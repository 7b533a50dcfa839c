"""What is said about transactions that failed or were slow, as etcd logs what it applied slowly: with who wanted them.

Every failure is counted. Not logged are a client that gave up and a store that is full (429): in an overload both come
by the thousand, say nothing about one transaction, and are the client's news. The rest is logged at a bounded rate, so
that a store that is down does not fill the disk of those who call it; the next line tells how many went unsaid.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from prometheus_client import Counter

from cluster.api.errors import ApiError
from cluster.registry.context import RequestContext, last_deadline
from cluster.registry.store import Op

log = logging.getLogger(__name__)

SLOW_S = 0.5
_BURST = 20
_PER_S = 2.0
_NAMED = 4  # callers of one transaction that are named; a batch may have dozens
_QUIET = frozenset({"cancelled", "TooManyRequests"})

FAILED = Counter("registry_failed_transactions_total", "Transactions of the store that failed", ["reason"])


class TxnLog:
    """`now` is on the event loop's clock, as deadlines are."""

    def __init__(self) -> None:
        self._tokens = float(_BURST)
        self._filled_at = float("-inf")
        self._unsaid = 0

    def failed(
        self, callers: Sequence[RequestContext], ops: Sequence[Op], took_s: float, why: BaseException, now: float
    ) -> None:
        reason = _reason(why, last_deadline(callers), now)
        FAILED.labels(reason).inc()
        if reason not in _QUIET:
            self._say(callers, ops, took_s, "failed", now)

    def done(self, callers: Sequence[RequestContext], ops: Sequence[Op], took_s: float, now: float) -> None:
        if took_s > SLOW_S:
            self._say(callers, ops, took_s, "was slow", now)

    def _say(self, callers: Sequence[RequestContext], ops: Sequence[Op], took_s: float, what: str, now: float) -> None:
        if not self._admit(now):
            self._unsaid += 1
            return
        unsaid, self._unsaid = self._unsaid, 0
        log.warning(
            "a transaction %s after %.3f s: %d ops, first %s (%s)%s",
            what,
            took_s,
            len(ops),
            ops[0][1].decode(errors="replace") if ops else "nothing",
            _who(callers),
            f"; {unsaid} more before it were not logged" if unsaid else "",
        )

    def _admit(self, now: float) -> bool:
        """A bucket of _BURST tokens that fills at _PER_S."""
        self._tokens = min(float(_BURST), self._tokens + (now - self._filled_at) * _PER_S)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _reason(why: BaseException, deadline: float | None, now: float) -> str:
    if isinstance(why, asyncio.CancelledError):  # the API server cancels what is past its deadline
        return "Timeout" if deadline is not None and now >= deadline else "cancelled"
    return why.reason or str(why.code) if isinstance(why, ApiError) else type(why).__name__


def _who(callers: Sequence[RequestContext]) -> str:
    named = [f"user {c.user.name}, request {c.audit_id or '-'}, cause {c.cause_id or '-'}" for c in callers[:_NAMED]]
    more = len(callers) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
