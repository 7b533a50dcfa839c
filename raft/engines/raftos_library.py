"""Upstream raftos 0.2.6, unmodified, made to load on a Python it was not written for. IO (reads its source files).

The package keeps its leader, its settings and its nodes in module and class attributes, so one process can hold one
node. Each ``load`` therefore imports a copy of its own, under a private name; what has to differ is put into the
copy's modules, and neither its files nor anybody else's asyncio are touched.

Put in, because the names are gone from today's Python and libraries:
- ``asyncio.Queue(loop=...)`` (removed in Python 3.10): ``loop`` is dropped;
- ``asyncio.futures.InvalidStateError`` (moved in Python 3.8), which it looks up at every entry it applies;
- ``msgpack.unpackb(encoding=...)`` (removed in msgpack 1.0): its serializer hook gets ``Wire`` instead.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import sys
from typing import Any

import msgpack

from raft.errors import Invalid

VERSION = "0.2.6"
_copies = itertools.count(1)


class Wire:
    """raftos' serializer hook, for datagrams and for its term and vote."""

    @staticmethod
    def pack(data: Any) -> bytes:
        packed: bytes = msgpack.packb(data, use_bin_type=True)
        return packed

    @staticmethod
    def unpack(data: bytes) -> Any:
        return msgpack.unpackb(data, raw=False, use_list=True)


class _Futures:
    InvalidStateError = asyncio.InvalidStateError


class _Asyncio:
    """The asyncio module as raftos knows it."""

    futures = _Futures

    @staticmethod
    def Queue(loop: Any = None) -> asyncio.Queue[Any]:
        return asyncio.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class Library:
    """One private copy; its modules as attributes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.package: Any = sys.modules[name]
        self.state: Any = self._module("state")
        self.storage: Any = self._module("storage")
        self.server: Any = self._module("server")
        self.cryptors: Any = self._module("cryptors")
        self.server.asyncio = self.state.asyncio = _Asyncio()

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"{self._name}.{name}")

    def configure(self, **settings: Any) -> None:
        self.package.configure({"serializer": Wire, **settings})

    def forget(self) -> None:
        """The copy may be collected once nobody uses it."""
        for name in [n for n in sys.modules if n == self._name or n.startswith(f"{self._name}.")]:
            del sys.modules[name]


def load() -> Library:
    """Raises Invalid if raftos is not installed."""
    found = importlib.util.find_spec("raftos")
    if found is None or found.origin is None:
        raise Invalid(
            "store engine raftos: the package raftos is not installed here; install the extra sk8-cluster[raftos] "
            "(docs/consensus.md says how)"
        )
    name = f"_raftos_{next(_copies)}"
    spec = importlib.util.spec_from_file_location(
        name, found.origin, submodule_search_locations=list(found.submodule_search_locations or ())
    )
    if spec is None or spec.loader is None:
        raise Invalid(f"store engine raftos: cannot load {found.origin}")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return Library(name)
