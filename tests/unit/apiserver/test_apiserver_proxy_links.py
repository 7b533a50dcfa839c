"""Links of proxied pages: which are put below the proxy's path, and that the rest of a page stays as it is."""

from __future__ import annotations

import gzip
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
<!-- <a href="/comment"> -->
<IMG SRC='/x&amp;y.png'/> <form action=/send><a href="/a" title="/b" download>/text</a>
<script>if (a < b) { s = '<a href="/in-script">' }</script> \u00e9 <unknown href="/u">"""


def test_a_page_changes_in_its_links_only() -> None:
    made = rewritten(PAGE.encode(), "", PREFIX, HOSTS).decode()
    assert made == (
        PAGE.replace("<IMG SRC='/x&amp;y.png'/>", f'<img src="{PREFIX}x&amp;y.png"/>')
        .replace("<form action=/send>", f'<form action="{PREFIX}send">')
        .replace('<a href="/a" title="/b" download>', f'<a href="{PREFIX}a" title="/b" download>')
    )


def test_a_page_keeps_its_encoding() -> None:
    wanted = rewritten(PAGE.encode(), "", PREFIX, HOSTS)
    assert gzip.decompress(rewritten(gzip.compress(PAGE.encode()), "gzip", PREFIX, HOSTS)) == wanted
    packer = zlib.compressobj(wbits=-15)
    raw = packer.compress(PAGE.encode()) + packer.flush()
    assert zlib.decompress(rewritten(raw, "deflate", PREFIX, HOSTS), -15) == wanted
    with pytest.raises(ValueError, match="not gzip"):
        rewritten(b"plain", "gzip", PREFIX, HOSTS)
