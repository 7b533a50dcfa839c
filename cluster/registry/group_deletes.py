"""Deletes that are asked for at once, or while others are under way, in few transactions (group commit).

IO only through Core. Who deletes alone is served at once and as ever. Of many who ask, each is judged by itself
(preconditions, admission, grace, finalizers); only their transactions are joined. What is not as it was read, and all
that keys besides an object's own depend on, is deleted by itself, which also says what is wrong; so is what a webhook
is asked about. A large group takes a few transactions.

    ask -> waiting -> groups of 64 -> read, judge -> one transaction ──holds──> all answered
                                                          └── does not ──> one each

Reads of a group may be of the past (serializable): what is written is compared with them, and what is refused is judged
again by the way alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.registry import keys
from cluster.registry.admission import Admission, Request
from cluster.registry.batches import BYTES_AT_ONCE, joined
from cluster.registry.context import RequestContext, last_deadline
from cluster.registry.core import Core, Plan, Stale
from cluster.registry.deletion import Deleter, Ending
from cluster.registry.types import DeleteOptions, Stored
from cluster.registry.writing import Writer

_AT_ONCE = 64
_ABREAST = 2
"""Groups: one is made ready while the other's transaction is under way."""
_ALONE = frozenset({"namespaces", "resourcequotas", "services", "ipaddresses.networking.k8s.io"})
"""What they hold besides their own key may be what another of the group holds."""


@dataclass(frozen=True, slots=True)
class _Ask:
    ctx: RequestContext
    info: ResourceInfo
    namespace: str
    name: str
    options: DeleteOptions
    outcome: asyncio.Future[Stored]

    @property
    def key(self) -> bytes:
        return keys.object_key(self.info, self.namespace, self.name)

    def settle(self, outcome: Stored | Exception) -> None:
        if self.outcome.done():
            return  # who asked has gone
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


_Joint = tuple[_Ask, Ending]


class GroupDeleter:
    def __init__(self, core: Core, writer: Writer, deleter: Deleter, admission: Admission) -> None:
        self._core = core
        self._writer = writer
        self._deleter = deleter
        self._admission = admission
        self._waiting: deque[_Ask] = deque()
        self._tasks: set[asyncio.Task[Any] | None] = set()

    async def delete(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, options: DeleteOptions
    ) -> Stored:
        """As `Deleter.delete`."""
        if info.name in _ALONE or ctx.dry_run or await self._asks_others(ctx, info, namespace, name):
            return await self._deleter.delete(ctx, info, namespace, name, options)
        self._deleter.check(ctx, info, name, options)
        ask = _Ask(ctx, info, namespace, name, options, asyncio.get_running_loop().create_future())
        self._waiting.append(ask)
        if not self._tasks or (len(self._waiting) >= _AT_ONCE and len(self._tasks) < _ABREAST):
            self._tasks.add(asyncio.create_task(self._work(), name="group-deletes"))
        return await ask.outcome

    async def _asks_others(self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str) -> bool:
        """A webhook answers when it likes: who waits for one keeps nobody else waiting."""
        request = Request(ctx, info, "DELETE", namespace, name, None, None, Plan())
        return await self._admission.webhooks.concern(request)

    async def _work(self) -> None:
        """Until nobody waits. What goes wrong with one group is told to it alone. NB: it is off the list in the very
        turn in which it saw that nobody waits; who asks a moment later starts another."""
        try:
            while self._waiting:
                if group := self._next():
                    await self._serve(group)
        finally:
            self._tasks.discard(asyncio.current_task())

    async def _serve(self, group: Sequence[_Ask]) -> None:
        try:
            await self._end(group)
        except Exception as e:  # noqa: BLE001 - theirs to raise: the others are served on
            for ask in group:
                ask.settle(e)
        except BaseException:
            for ask in (*group, *self._waiting):
                ask.outcome.cancel()
            raise

    def _next(self) -> list[_Ask]:
        """Those in front that one leader asks, none of them twice, and nobody who has gone."""
        group: dict[bytes, _Ask] = {}
        fence = self._waiting[0].ctx.fence
        while self._waiting and len(group) < _AT_ONCE:
            ask = self._waiting[0]
            if not ask.outcome.done():
                if ask.ctx.fence != fence or ask.key in group:
                    break
                group[ask.key] = ask
            self._waiting.popleft()
        return list(group.values())

    async def _end(self, group: Sequence[_Ask]) -> None:
        endings = await asyncio.gather(*(self._ending(ask) for ask in group)) if len(group) > 1 else [None]
        joint: list[_Joint] = []
        alone: list[tuple[_Ask, Ending | None]] = []
        for ask, ending in zip(group, endings, strict=True):
            if ending is None:
                alone.append((ask, None))
            else:
                joint.append((ask, ending))
        for part in _parts(joint):
            alone += await self._commit(part)
        await asyncio.gather(*(self._alone(ask, ending) for ask, ending in alone))

    async def _ending(self, ask: _Ask) -> Ending | None:
        """None: the way alone says what is to be done, or what is wrong: nothing of one object's stops the others."""
        try:
            current = await self._core.read(ask.key, serializable=True, deadline=ask.ctx.deadline)
            return None if current is None else await self._deleter.ending(ask.ctx, ask.info, current, ask.options)
        except Exception:  # noqa: BLE001 - the way alone meets it again, and it is raised to who asked
            return None

    async def _commit(self, part: Sequence[_Joint]) -> Sequence[_Joint]:
        """Those of them that are left to be done alone."""
        done = await self._together(part)
        if done is None:
            return part
        for ask, ending in part:
            ask.settle(ending.answer(done) if isinstance(done, int) else done)
        return ()

    async def _together(self, joint: Sequence[_Joint]) -> int | ApiError | None:
        if len(joint) < 2:
            return None
        callers = [ask.ctx for ask, _ in joint]
        ctx = replace(callers[0], deadline=last_deadline(callers))
        return await joined(self._writer.ledger, ctx, [(e.plan, e.charge) for _, e in joint])

    async def _alone(self, ask: _Ask, ending: Ending | None) -> None:
        try:
            ask.settle(await self._once(ask, ending))
        except Exception as e:  # noqa: BLE001 - theirs to raise
            ask.settle(e)

    async def _once(self, ask: _Ask, ending: Ending | None) -> Stored:
        """What was made ready is tried first: in a namespace with quotas, writes are joined where they are charged."""
        if ending is not None:
            try:
                return ending.answer(await self._writer.finish(ask.ctx, ending.plan, ending.charge))
            except Stale:
                pass
        return await self._deleter.delete(ask.ctx, ask.info, ask.namespace, ask.name, ask.options)


def _parts(joint: Sequence[_Joint]) -> Iterator[Sequence[_Joint]]:
    """As many as share a transaction, which the store bounds: one that is only marked is written whole."""
    start, size = 0, 0
    for i, (_, ending) in enumerate(joint):
        own = ending.plan.put_bytes
        if i > start and size + own > BYTES_AT_ONCE:
            yield joint[start:i]
            start, size = i, 0
        size += own
    if joint:
        yield joint[start:]
