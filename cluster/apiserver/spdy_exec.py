"""exec and attach of a client that speaks SPDY, said to a kubelet that speaks WebSocket, and back. Pure (no IO).

    client ── SPDY/3.1: streams error, stdin, stdout, stderr, resize ──> here ── v5.channel.k8s.io messages ──> kubelet

The client opens a stream per channel; the command's output must wait until all are there (`ready`). A stream that the
client ends or resets is a channel that is closed (255): that is how the end of stdin reaches the command.

Source: pkg/kubelet/cri/streaming/remotecommand/httpstream.go, client-go tools/remotecommand.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import orjson

from cluster.api.remotecommand import CHANNELS, CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, V3, V4
from cluster.api.spdy import Data, GoAway, Opened, Ping, Reset, SpdyConnection

_PROTOCOL_ERROR = 1
_NO_STATUS = {
    "metadata": {},
    "status": "Failure",
    "message": "the connection to the kubelet ended before the command's status came",
    "reason": "InternalError",
    "code": 500,
}
_MAX_SIZE = 1024
"""Bytes of one terminal size; more without an end of it is not JSON of a size."""


@dataclass(slots=True)
class Step:
    """What to send now: bytes to the client, messages to the kubelet."""

    client: bytes = b""
    kubelet: list[bytes] = field(default_factory=list)


class ExecTranslation:
    """One command. `protocol`: one of SPDY_PROTOCOLS; `wants`: what the query asks of stdin, stdout, stderr, tty."""

    def __init__(self, protocol: str, wants: Collection[str]) -> None:
        self._spdy = SpdyConnection()
        self._status_is_json = protocol == V4
        self._awaited = {ERROR} | {c for name, c in CHANNELS.items() if name in wants}
        if "tty" in wants:
            self._awaited.discard(STDERR)  # a terminal has one output
            if protocol in (V4, V3):
                self._awaited.add(RESIZE)
        self._streams: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}  # stream -> channel
        self._to_client: set[int] = set()  # channels on which the client can still be told something
        self._from_client: set[int] = set()
        self._sizes = bytearray()
        self._goodbye = False
        self._has_status = False

    @property
    def left(self) -> bool:
        """The client has said goodbye and wants nothing any more; most close the connection as well."""
        return self._goodbye and not self._from_client and not self._to_client

    @property
    def ready(self) -> bool:
        """The client has opened every stream that its request calls for."""
        return self._awaited <= self._streams.keys()

    # ------------------------------------------------------------ what the client sends

    def from_client(self, data: bytes) -> Step:
        """Raises SpdyError."""
        step = Step()
        for event in self._spdy.receive(data):
            match event:
                case Opened():
                    self._opened(event, step)
                case Data():
                    self._said(event, step)
                case Reset():
                    self._reset(event.stream, step)
                case Ping():
                    step.client += self._spdy.pong(event.id)
                case GoAway():
                    self._goodbye = True
        return step

    def _opened(self, event: Opened, step: Step) -> None:
        channel = CHANNELS.get(event.headers.get("streamtype", ""))
        if channel is None or channel in self._streams:
            step.client += self._spdy.reset(event.stream, _PROTOCOL_ERROR)
            return
        self._streams[channel] = event.stream
        self._channels[event.stream] = channel
        self._to_client.add(channel)
        self._from_client.add(channel)
        step.client += self._spdy.reply(event.stream)
        if event.fin:
            self._ended(channel, step)

    def _said(self, event: Data, step: Step) -> None:
        channel = self._channels.get(event.stream)
        if channel not in self._from_client:
            return  # of a stream that was never accepted, or is over
        if channel == STDIN and event.data:
            step.kubelet.append(bytes([STDIN]) + event.data)
        elif channel == RESIZE:
            self._resized(event.data, step)
        if event.fin:
            self._ended(channel, step)

    def _resized(self, data: bytes, step: Step) -> None:
        """Sizes are JSON objects one after another; frames end where they like."""
        self._sizes += data
        while (end := self._sizes.find(b"}")) >= 0:
            step.kubelet.append(bytes([RESIZE]) + self._sizes[: end + 1].strip())
            del self._sizes[: end + 1]
        if len(self._sizes) > _MAX_SIZE:
            self._sizes.clear()

    def _ended(self, channel: int, step: Step) -> None:
        if channel not in self._from_client:
            return
        self._from_client.discard(channel)
        if channel == STDIN:
            step.kubelet.append(bytes([CLOSE, STDIN]))

    def _reset(self, stream: int, step: Step) -> None:
        channel = self._channels.get(stream)
        if channel is not None:
            self._ended(channel, step)
            self._to_client.discard(channel)

    # ------------------------------------------------------------ what the kubelet sends

    def from_kubelet(self, message: bytes) -> bytes:
        """What to tell the client. Output that it has no stream for is dropped."""
        channel, payload = message[0] if message else None, message[1:]
        if channel == CLOSE and payload:
            return self._end(payload[0])
        if channel not in self._to_client or channel not in (STDOUT, STDERR, ERROR):
            return b""
        if channel == ERROR:
            self._has_status = True
            payload = payload if self._status_is_json else _as_text(payload)
        return self._spdy.data(self._streams[channel], payload) if payload else b""

    def _end(self, channel: int) -> bytes:
        if channel not in self._to_client:
            return b""
        self._to_client.discard(channel)
        return self._spdy.data(self._streams[channel], b"", fin=True)

    def end(self) -> bytes:
        """The kubelet has ended: so do all streams, and the connection. A client takes no status at all for success."""
        told = b"" if self._has_status else self.from_kubelet(bytes([ERROR]) + orjson.dumps(_NO_STATUS))
        ends = b"".join(self._end(channel) for channel in sorted(self._to_client))
        return told + ends + self._spdy.go_away(max(self._channels, default=0))


def _as_text(status: bytes) -> bytes:
    """The Status as protocols before v4 know it: the message of a failure, nothing for a success."""
    try:
        found = orjson.loads(status)
    except orjson.JSONDecodeError:
        return status
    if not isinstance(found, dict) or found.get("status") == "Success":
        return b""
    return str(found.get("message") or found.get("reason") or "the command failed").encode()
