"""What is known of objects without asking the store: where the change of one may start from.

Pure. An API server has all objects in its cache, mostly as they are. A change that starts there saves a question to the
quorum; its transaction compares the revision it started from, so one that started from an old state is never written,
and is made again from what the store says. Source: kube-apiserver's GuaranteedUpdate, which does so with its cache.

Nothing is known of what is encrypted (an old key makes a write needed) or custom (its versions are converted).
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.api.scheme import ResourceInfo
from cluster.registry.core import Core
from cluster.registry.types import Stored

LookUp = Callable[[bytes], Stored | None]
"""By key."""
_WRITTEN = 4096


class Known:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._written: dict[bytes, int] = {}
        self.look_up: LookUp | None = None

    def of(self, info: ResourceInfo, key: bytes) -> Stored | None:
        """None also of what was changed here a moment ago, if the news of it has not come back yet."""
        if self.look_up is None or info.custom is not None or self._core.encrypts(info):
            return None
        found = self.look_up(key)
        if found is None or found.revision < self._written.get(key, 0):
            return None
        self._written.pop(key, None)
        return found

    def wrote(self, stored: Stored) -> None:
        if self.look_up is None:
            return
        self._written[stored.key] = stored.revision
        if len(self._written) > _WRITTEN:
            del self._written[next(iter(self._written))]
