"""exec and attach on the wire, as both ends of a connection need to know it. Pure.

Over WebSocket (KEP-4006) a message's first byte is its channel: 0 stdin, 1 stdout, 2 stderr, 3 error (a metav1.Status
in JSON, the last message), 4 resize ({"Width":..,"Height":..}); v5 adds 255, "this channel is closed", by which stdin
can end while output goes on. Over SPDY each channel is a stream, whose header `streamtype` is its name.
"""

from __future__ import annotations

V5, V4, V3, V2, V1 = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
)
WEBSOCKET_PROTOCOLS = (V5, V4)
SPDY_PROTOCOLS = (V4, V3, V2, V1)
"""v4 has a Status on the error stream, the older ones a text; v3 brought resize."""
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHANNELS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
