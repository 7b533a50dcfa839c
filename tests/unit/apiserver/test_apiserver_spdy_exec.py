"""SPDY of exec said as WebSocket messages and back, with what client-go 1.20 sent for `cat` with input "hello"."""

import json

import pytest

from cluster.api.spdy import Data, GoAway, Ping, Reset, SpdyConnection, SpdyError
from cluster.apiserver.spdy_exec import ExecTranslation

CLIENT_GO = bytes.fromhex(
    "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff"  # error
    "800300010000001700000003000000000000c22e555c92929907000000ffff"  # stdin
    "800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff"  # stdout
    "800300010000001500000007000000000000c229975a5404000000ffff"  # stderr
    "000000030000000568656c6c6f0000000301000000"  # "hello", and the end of it
)
ERROR, STDIN, STDOUT, STDERR = 1, 3, 5, 7
ALL = ("stdin", "stdout", "stderr")
SUCCESS = b'\x03{"metadata":{},"status":"Success"}'
FAILURE = b'\x03{"status":"Failure","message":"it broke","reason":"InternalError"}'


def translation(protocol: str = "v4.channel.k8s.io", wants: tuple[str, ...] = ALL) -> ExecTranslation:
    """One whose client has opened its streams and ended its input."""
    made = ExecTranslation(protocol, wants)
    made.from_client(CLIENT_GO)
    return made


def read(data: bytes) -> list[object]:
    return list(SpdyConnection().receive(data))


@pytest.mark.parametrize("size", [1, 7, len(CLIENT_GO)])
def test_what_client_go_sends_whichever_way_it_is_cut(size: int) -> None:
    made = ExecTranslation("v4.channel.k8s.io", ALL)
    steps, ready_at = [], []
    for at in range(0, len(CLIENT_GO), size):
        steps.append(made.from_client(CLIENT_GO[at : at + size]))
        ready_at.append(made.ready)
    assert [m for step in steps for m in step.kubelet] == [b"\x00hello", b"\xff\x00"]
    assert ready_at[-1] and (size == len(CLIENT_GO) or not ready_at[0])
    replies = b"".join(step.client for step in steps)
    heads, at = [], 0
    while at < len(replies):  # four SYN_REPLY, one per stream
        heads.append((replies[at : at + 4].hex(), int.from_bytes(replies[at + 8 : at + 12])))
        at += 8 + int.from_bytes(replies[at + 5 : at + 8])
    assert heads == [("80030002", stream) for stream in (ERROR, STDIN, STDOUT, STDERR)]


def test_output_and_status_go_to_their_streams() -> None:
    made = translation()
    assert read(made.from_kubelet(b"\x01out")) == [Data(STDOUT, b"out", False)]
    assert read(made.from_kubelet(b"\x02err")) == [Data(STDERR, b"err", False)]
    assert read(made.from_kubelet(FAILURE)) == [Data(ERROR, FAILURE[1:], False)]
    assert read(made.from_kubelet(b"\xff\x01")) == [Data(STDOUT, b"", True)]
    for nothing in (b"", b"\x01", b"\x01late", b"\xff\x01", b"\xff", b"\x00input", b"\x04{}", b"\x09?"):
        assert made.from_kubelet(nothing) == b""
    ends = read(made.end())
    assert ends[-1] == GoAway()
    assert sorted(e.stream for e in ends[:-1] if isinstance(e, Data) and e.fin) == [ERROR, STDIN, STDERR]


def test_a_kubelet_that_ends_without_a_status_is_no_success() -> None:
    made = translation()
    made.from_kubelet(b"\x01half of it")
    told = read(made.end())[0]
    assert isinstance(told, Data) and told.stream == ERROR
    status = json.loads(told.data)
    assert (status["status"], status["reason"]) == ("Failure", "InternalError")
    old = read(translation("v2.channel.k8s.io").end())[0]
    assert isinstance(old, Data) and old.data.decode() == status["message"]


@pytest.mark.parametrize("protocol", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
def test_before_v4_a_status_is_a_text(protocol: str) -> None:
    made = translation(protocol)
    assert made.from_kubelet(SUCCESS) == b""
    assert read(made.from_kubelet(FAILURE)) == [Data(ERROR, b"it broke", False)]
    assert read(made.from_kubelet(b"\x03not json")) == [Data(ERROR, b"not json", False)]


@pytest.mark.parametrize(
    ("protocol", "wants", "streams"),
    [
        ("v4.channel.k8s.io", ("stdin", "stdout", "tty"), ["error", "stdin", "stdout", "resize"]),
        ("v3.channel.k8s.io", ("stdout", "stderr", "tty"), ["error", "stdout", "resize"]),
        ("v2.channel.k8s.io", ("stdout", "tty"), ["error", "stdout"]),
        ("channel.k8s.io", ("stderr",), ["error", "stderr"]),
    ],
)
def test_ready_when_every_stream_that_was_asked_for_is_open(protocol, wants, streams) -> None:
    made, client = ExecTranslation(protocol, wants), SpdyConnection()
    for number, name in enumerate(streams):
        assert not made.ready
        made.from_client(client.open(2 * number + 1, {"streamtype": name}))
    assert made.ready


def test_sizes_are_cut_where_they_end() -> None:
    made, client = ExecTranslation("v4.channel.k8s.io", ("stdout", "tty")), SpdyConnection()
    made.from_client(client.open(1, {"streamtype": "resize"}))
    sizes = b'{"Width":80,"Height":24}\n{"Width":90,"Height":30}\n'
    sent = [made.from_client(client.data(1, sizes[at : at + 9])).kubelet for at in range(0, len(sizes), 9)]
    got = [json.loads(m[1:]) for step in sent for m in step if m[:1] == b"\x04"]
    assert got == [{"Width": 80, "Height": 24}, {"Width": 90, "Height": 30}]
    made.from_client(client.data(1, b"x" * 5000))  # no size: forgotten, not kept for ever
    assert made.from_client(client.data(1, b'{"Width":1,"Height":2}')).kubelet == [b'\x04{"Width":1,"Height":2}']


def test_resets_pings_and_strangers() -> None:
    made, client = ExecTranslation("v4.channel.k8s.io", ALL), SpdyConnection()
    made.from_client(
        b"".join(client.open(s, {"streamtype": n}) for s, n in ((1, "error"), (3, "stdin"), (5, "stdout")))
    )
    assert read(made.from_client(client.pong(9)).client) == [Ping(9)]
    for stream, name in ((7, "stdin"), (9, "video"), (11, "")):  # there already, and unknown
        assert read(made.from_client(client.open(stream, {"streamtype": name})).client) == [Reset(stream)]
    assert made.from_client(client.data(9, b"lost")).kubelet == []
    assert made.from_client(client.reset(3)).kubelet == [b"\xff\x00"]  # the command's input ends
    assert made.from_client(client.data(3, b"late", fin=True)).kubelet == []
    made.from_client(client.reset(5))
    assert made.from_kubelet(b"\x01unwanted") == b""
    made.from_client(client.go_away(0))
    assert not made.left  # it still waits for the status
    made.from_client(client.reset(1))
    assert made.left


def test_what_is_not_spdy_is_an_error() -> None:
    with pytest.raises(SpdyError):
        translation().from_client(b"GET / HTTP/1.1\r\n\r\n")
