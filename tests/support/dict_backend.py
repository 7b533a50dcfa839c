"""A store's records in dicts. Pure; fulfils raft.mvcc.backend.Backend structurally."""

from __future__ import annotations

from bisect import bisect_left


class DictBackend:
    def __init__(self) -> None:
        self._records: dict[int, bytes] = {}
        self._order: list[int] = []
        self._meta: dict[bytes, bytes] = {}
        self._bytes = 0

    def get(self, pos: int) -> bytes | None:
        return self._records.get(pos)

    def put(self, pos: int, record: bytes) -> None:
        self._records[pos] = record
        self._order.append(pos)
        self._bytes += len(record)

    def delete(self, pos: int) -> None:
        record = self._records.pop(pos, None)
        if record is not None:
            self._bytes -= len(record)
            del self._order[bisect_left(self._order, pos)]

    def scan(self, start: int, end: int, limit: int) -> list[tuple[int, bytes]]:
        low, high = bisect_left(self._order, start), bisect_left(self._order, end)
        return [(pos, self._records[pos]) for pos in self._order[low : min(high, low + limit)]]

    def meta_get(self, name: bytes) -> bytes | None:
        return self._meta.get(name)

    def meta_set(self, name: bytes, value: bytes | None) -> None:
        if value is None:
            self._meta.pop(name, None)
        else:
            self._meta[name] = value

    def meta_scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return sorted((k, v) for k, v in self._meta.items() if k.startswith(prefix))

    def size_bytes(self) -> int:
        return self._bytes
