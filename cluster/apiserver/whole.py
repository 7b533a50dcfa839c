"""An answer that is there in full, sent as one piece. IO: aiohttp's writer.

aiohttp's own Response copies its headers twice and awaits its way through a dozen functions; for a small object that is
as much work as everything this server does to find it.
"""

from __future__ import annotations

import http
import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_BODILESS = frozenset((204, 304))
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class WholeResponse(web.StreamResponse):
    """Head and body leave with one write. Only where `fits` says so."""

    def __init__(self, code: int, fields: Iterable[tuple[str, str]], body: bytes) -> None:
        """`fields`: all but Content-Length, Date and Connection. Preparing raises ValueError for a control character
        in one."""
        super().__init__(status=code)
        self._fields = fields
        self._whole = body
        self._last = False

    @staticmethod
    def fits(request: web.BaseRequest, code: int) -> bool:
        """Other versions of HTTP, and answers without the body they tell the length of, are aiohttp's."""
        return request.version == HttpVersion11 and request.method != "HEAD" and code not in _BODILESS

    @property
    def keep_alive(self) -> bool | None:
        return not self._last

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._last = not request.keep_alive
        head = _head(self.status, self._fields, len(self._whole), last=self._last)
        await request.writer.write(head + self._whole)
        await request.writer.drain()  # a client that takes no answer is sent no more of them
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything has been written."""


def _head(code: int, fields: Iterable[tuple[str, str]], length: int, *, last: bool) -> bytes:
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, '')}"]
    lines += [f"{name}: {value}" for name, value in fields]
    lines += [f"Content-Length: {length}", f"Date: {_date(int(time.time()))}"]
    if last:
        lines.append("Connection: close")
    if _FORBIDDEN.search("".join(lines)):  # whoever writes a line break could write a second answer
        raise ValueError("a header must not hold control characters")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """IMF-fixdate (RFC 9110, section 5.6.7)."""
    return formatdate(second, usegmt=True)
