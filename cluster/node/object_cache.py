"""ConfigMaps, Secrets and the like that pods refer to, read through the API and kept for a moment.

IO only through the injected Client. This is the kubelet's "Cache" change detection strategy: an object is as old as the
time to live at most, many pods that share it cost one read, and nothing is listed or watched that no pod here names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from cluster.api.errors import ApiError
from cluster.machinery.client import Client, is_not_found

Obj = dict[str, Any]
_Key = tuple[str, str, str]


class ObjectCache:
    def __init__(self, client: Client, *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept: dict[_Key, tuple[float, Obj | None]] = {}
        self._reading: dict[_Key, asyncio.Task[Obj | None]] = {}

    async def get(self, resource: str, namespace: str, name: str, *, fresh: bool = False) -> Obj | None:
        """The object, None when there is none. An absence is never kept. Raises ApiError."""
        key = (resource, namespace, name)
        kept = self._kept.get(key)
        if kept is not None and not fresh and self._clock() - kept[0] < self._ttl_s:
            return kept[1]
        task = self._reading.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read(key))
            self._reading[key] = task
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(task)

    async def get_all(self, resource: str, namespace: str, names: Iterable[str]) -> dict[str, Obj | None]:
        wanted = sorted(set(names))
        found = await asyncio.gather(*(self.get(resource, namespace, name) for name in wanted))
        return dict(zip(wanted, found, strict=True))

    def sweep(self) -> None:
        """Forget what nobody asked for lately."""
        limit = self._clock() - 10 * self._ttl_s
        for key in [k for k, (at, _) in self._kept.items() if at < limit]:
            del self._kept[key]

    async def _read(self, key: _Key) -> Obj | None:
        resource, namespace, name = key
        try:
            obj = await self._client.get(resource, name, namespace)
        except ApiError as err:
            if not is_not_found(err):
                raise
            self._kept.pop(key, None)
            return None
        self._kept[key] = (self._clock(), obj)
        return obj
