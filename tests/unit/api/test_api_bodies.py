"""Reading a body to its end or its limit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cluster.api.bodies import read_at_most


@pytest.mark.parametrize(
    ("pieces", "expected", "taken"),
    [
        ([], (b"", False), 0),
        ([b"ab", b"cd"], (b"abcd", False), 2),
        ([b"ab", b"cde", b"f"], (b"abcd", True), 2),
        ([b"abcd", b"e", b"f"], (b"abcd", True), 2),
        ([b"abcdef"], (b"abcd", True), 1),
    ],
)
async def test_a_body_is_read_to_its_end_or_to_four_bytes(
    pieces: list[bytes], expected: tuple[bytes, bool], taken: int
) -> None:
    left = list(pieces)

    async def chunks() -> AsyncIterator[bytes]:
        while left:
            yield left.pop(0)

    assert await read_at_most(chunks(), 4) == expected
    assert len(pieces) - len(left) == taken, "what is over the limit is not read"
