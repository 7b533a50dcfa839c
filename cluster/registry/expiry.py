"""Store leases for objects that expire (Events): many objects share one lease.

IO only through Core. As etcd's lease manager in Kubernetes does, a lease is reused for a while, so that a flood of
events does not become a flood of leases; an object may therefore live up to `_REUSE_S` longer than its ttl.
"""

from __future__ import annotations

import asyncio

from cluster.api import errors
from cluster.registry.core import Core, from_store_error

_REUSE_S = 60.0
_MAX_OBJECTS = 1000


class Expiry:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._current: dict[int, tuple[int, float, int]] = {}

    async def lease(self, ttl_s: int, deadline: float | None = None) -> int:
        """A lease that lives at least `ttl_s` from now. Raises 504 at `deadline`, a moment on the loop's clock; what
        the store may grant after that ends by itself."""
        now = self._core.clock()
        lease_id, until, used = self._current.get(ttl_s, (0, 0.0, 0))
        if lease_id and now < until and used < _MAX_OBJECTS:
            self._current[ttl_s] = (lease_id, until, used + 1)
            return lease_id
        try:
            async with asyncio.timeout_at(deadline):
                lease_id = await self._core.store.lease_grant(ttl_s + int(_REUSE_S))
        except TimeoutError as e:
            why = "request did not complete within the allotted timeout: the store granted no lease in time"
            raise errors.timeout(why) from e
        except Exception as e:
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e
        self._current[ttl_s] = (lease_id, now + _REUSE_S, 1)
        return lease_id

    def again(self, lease_id: int) -> bool:
        """Whether one more object may have a lease that was had a moment ago; it is counted."""
        for ttl_s, (current, until, used) in self._current.items():
            if current == lease_id and self._core.clock() < until and used < _MAX_OBJECTS:
                self._current[ttl_s] = (current, until, used + 1)
                return True
        return False

    def forget(self) -> None:
        """The current leases are not to be used again (one was found expired)."""
        self._current.clear()
