"""Bodies of HTTP messages, read to their end but never without a limit. Pure: the chunks come from the caller."""

from __future__ import annotations

from collections.abc import AsyncIterable


async def read_at_most(chunks: AsyncIterable[bytes], limit_bytes: int) -> tuple[bytes, bool]:
    """The body up to `limit_bytes`, and whether it is longer; then the rest is not read.

    One read of a stream returns what has arrived so far, not the body: hence the loop. What a longer body means (an
    error, or that its beginning is enough) is for the caller to say.
    """
    kept: list[bytes] = []
    room = limit_bytes
    async for chunk in chunks:
        kept.append(chunk[:room])
        room -= len(chunk)
        if room < 0:
            return b"".join(kept), True
    return b"".join(kept), False
