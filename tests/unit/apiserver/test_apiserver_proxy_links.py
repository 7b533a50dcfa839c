"""Links of proxied pages: which are put below the proxy's path, and that the rest of a page stays as it is."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from cluster.apiserver.proxy_links import below, rewritten

PREFIX = "/api/v1/namespaces/default/pods/p/proxy/"
HOSTS = ("10.0.0.1:80", "localhost:8001")


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/a/b/?q#f", PREFIX + "a/b/?q#f"),
        ("http://10.0.0.1:80/a", PREFIX + "a"),
        ("http://localhost:8001/a", PREFIX + "a"),
        (PREFIX + "a", PREFIX + "a"),
        ("a/b", "a/b"),
        ("//elsewhere/a", "//elsewhere/a"),
        ("https://elsewhere/a", "https://elsewhere/a"),
        ("#here", "#here"),
        ("http://[bad/", "http://[bad/"),
    ],
)
def test_only_absolute_paths_of_the_same_server_move(target: str, wanted: str) -> None:
    assert below(target, PREFIX, HOSTS) == wanted


PAGE = """<!DOCTYPE html>
<!-- <a href="/comment"> --><!-->
<IMG SRC='/x&amp;y.png'/> <p title="a>b" id=don't>&eacute;<q cite="/q>&eacute;">\u00e0
<form action=/send><a href="/a" title="/b" download>/text</a>
<script>if (a < b) { s = '<a href="/in-script">' }</script> \u00e9 <unknown href="/u">"""


def test_a_page_changes_in_its_links_only() -> None:
    made = rewritten(PAGE.encode(), "", PREFIX, HOSTS).decode()
    assert made == (
        PAGE.replace("<IMG SRC='/x&amp;y.png'/>", f"<IMG SRC='{PREFIX}x&amp;y.png'/>")
        .replace('cite="/q', f'cite="{PREFIX}q')
        .replace("<form action=/send>", f'<form action="{PREFIX}send">')
        .replace('<a href="/a" title="/b" download>', f'<a href="{PREFIX}a" title="/b" download>')
    )


def packed(page: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(page) + packer.flush()


def test_a_page_keeps_its_encoding() -> None:
    wanted = rewritten(PAGE.encode(), "", PREFIX, HOSTS)
    assert gzip.decompress(rewritten(gzip.compress(PAGE.encode()), "gzip", PREFIX, HOSTS)) == wanted
    raw = packed(PAGE.encode(), -15)
    assert zlib.decompress(rewritten(raw, "deflate", PREFIX, HOSTS), -15) == wanted
    with pytest.raises(ValueError, match="not gzip"):
        rewritten(b"plain", "gzip", PREFIX, HOSTS)


@pytest.mark.parametrize(
    "start", ["<a ", "<a>", '<a x="', "<a x='\"", "<a x= ", "<!--", "<script>", "<a href=x ", "<p>'\"=", "<" + "a" * 99]
)
def test_no_page_takes_longer_than_its_length_says(start: str) -> None:
    page = (start * (1 << 20))[: 1 << 20].encode()
    assert rewritten(page, "", PREFIX, HOSTS) == page


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", -15)])
def test_what_unpacks_to_more_than_a_page_is_not_unpacked(encoding: str, wbits: int) -> None:
    bomb = packed(bytes(64 << 20), wbits)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="larger than"):
            rewritten(bomb, encoding, PREFIX, HOSTS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_page_of_several_gzip_members_is_left_alone() -> None:
    with pytest.raises(ValueError, match="after its end"):
        rewritten(gzip.compress(b"a") * 2, "gzip", PREFIX, HOSTS)
