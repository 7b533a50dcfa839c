"""Keys in order, for ranges over hundreds of thousands of them. Pure.

A list of sorted chunks with a list of each chunk's last key: a lookup is two bisections, an insertion moves at most
one chunk, a count adds up chunk lengths. Invariant: no chunk is empty, and ``_last[i] == _chunks[i][-1]``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

_CHUNK = 1000


class SortedKeys:
    __slots__ = ("_chunks", "_last", "_size")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(keys)
        self._chunks = [ordered[i : i + _CHUNK] for i in range(0, len(ordered), _CHUNK)]
        self._last = [chunk[-1] for chunk in self._chunks]
        self._size = len(ordered)

    def __len__(self) -> int:
        return self._size

    def add(self, key: bytes) -> None:
        """``key`` must not be in it."""
        self._size += 1
        if not self._chunks:
            self._chunks.append([key])
            self._last.append(key)
            return
        at = min(bisect_left(self._last, key), len(self._last) - 1)
        chunk = self._chunks[at]
        insort(chunk, key)
        if len(chunk) > 2 * _CHUNK:
            self._chunks[at : at + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]
            self._last[at : at + 1] = [chunk[_CHUNK - 1], chunk[-1]]
        else:
            self._last[at] = chunk[-1]

    def remove(self, key: bytes) -> None:
        """``key`` must be in it."""
        at = bisect_left(self._last, key)
        chunk = self._chunks[at]
        i = bisect_left(chunk, key)
        if chunk[i] != key:
            raise KeyError(key)
        self._size -= 1
        del chunk[i]
        if chunk:
            self._last[at] = chunk[-1]
        else:
            del self._chunks[at], self._last[at]

    def _rank(self, key: bytes) -> int:
        at = bisect_left(self._last, key)
        before = sum(map(len, self._chunks[:at]))
        return before if at == len(self._chunks) else before + bisect_left(self._chunks[at], key)

    def count(self, start: bytes, end: bytes) -> int:
        """How many are in [start, end); end b"\\0" = to the last."""
        stop = self._size if end == b"\0" else self._rank(end)
        return max(0, stop - self._rank(start))

    def take(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """The first ``limit`` keys of [start, end), in order."""
        found: list[bytes] = []
        at = bisect_left(self._last, start)
        while at < len(self._chunks) and len(found) < limit:
            chunk = self._chunks[at]
            low = 0 if found else bisect_left(chunk, start)
            last = end != b"\0" and end <= chunk[-1]
            high = bisect_left(chunk, end) if last else len(chunk)
            found.extend(chunk[low : min(high, low + limit - len(found))])
            if last:
                break
            at += 1
        return found
