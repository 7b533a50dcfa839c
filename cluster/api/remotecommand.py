"""exec and attach on the wire, as both ends of a connection need to know it. Pure.

Over WebSocket (KEP-4006) a message's first byte is its channel: 0 stdin, 1 stdout, 2 stderr, 3 error (a metav1.Status
in JSON, the last message), 4 resize ({"Width":..,"Height":..}); v5 adds 255, "this channel is closed", by which stdin
can end while output goes on. What came before v4 old clients still speak, also in base64 (RFC 4648) for those that
take text only. Over SPDY each channel is a stream, whose header `streamtype` is its name.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

V5, V4, V3, V2, V1 = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
)
_BASE64 = {"v4.base64.channel.k8s.io": V4, "base64.channel.k8s.io": V1}
WEBSOCKET_PROTOCOLS = (V5, V4, V1, *_BASE64)
SPDY_PROTOCOLS = (V4, V3, V2, V1)
"""v4 has a Status on the error stream, the older ones a text; v3 brought resize."""
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHANNELS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a WebSocket subprotocol writes its messages; a client that names none speaks the oldest.

    `text`: a digit for the channel, and base64; else bytes. `status`: how a command ended is a Status on the error
    channel; else, only when it failed, a line of text.
    """

    text: bool
    status: bool

    @classmethod
    def of(cls, protocol: str | None) -> Dialect:
        return cls(text=protocol in _BASE64, status=_BASE64.get(protocol or "", protocol) in (V4, V5))

    def encode(self, channel: int, data: bytes) -> bytes | str:
        return f"{channel}{base64.b64encode(data).decode()}" if self.text else bytes([channel]) + data

    def decode(self, message: bytes) -> tuple[int, bytes]:
        """Channel and data of a message that is not empty; raises ValueError."""
        if self.text:
            return int(message[:1]), base64.b64decode(message[1:], validate=True)
        return message[0], message[1:]


URL_BYTES: Final = 1 << 20
"""A command comes in the URL. So long may the request line be at API server and kubelet, as in Go's net/http."""

REFUSAL: Final = "X-Stream-Refusal"
"""The header that says why a kubelet upgrades no connection: WebSocket clients throw such an answer's body away."""


def refusal(why: str) -> dict[str, str]:
    return {REFUSAL: quote(why)}


def why_refused(headers: Mapping[str, str] | None) -> str:
    """ "" where nothing was said."""
    return unquote((headers or {}).get(REFUSAL, ""))
