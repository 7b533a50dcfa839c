"""Links of a proxied page, put below the proxy's path: the Location header, and URLs in attributes of HTML.

Pure. A page behind `/api/v1/.../proxy/` links to `/style.css` of its own server; the browser would ask the API server
for it. Only start tags change, byte by byte; URLs inside scripts and style sheets stay as they are, as in Kubernetes.
Source: apimachinery `pkg/util/proxy/transport.go`, https://html.spec.whatwg.org/#attributes-3.
"""

from __future__ import annotations

import gzip
import html
import zlib
from html.parser import HTMLParser
from urllib.parse import urlsplit, urlunsplit

# tag -> its attributes that are URLs
_URLS = {
    "a": ("href",), "applet": ("codebase",), "area": ("href",), "audio": ("src",), "base": ("href",),
    "blockquote": ("cite",), "body": ("background",), "button": ("formaction",), "command": ("icon",), "del": ("cite",),
    "embed": ("src",), "form": ("action",), "frame": ("longdesc", "src"), "head": ("profile",), "html": ("manifest",),
    "iframe": ("longdesc", "src"), "img": ("longdesc", "src", "usemap"), "input": ("src", "usemap", "formaction"),
    "ins": ("cite",), "link": ("href",), "object": ("classid", "codebase", "data", "usemap"), "q": ("cite",),
    "script": ("src",), "source": ("src",), "video": ("poster", "src"),
}  # fmt: skip
ENCODINGS = ("", "gzip", "deflate")


def below(target: str, prefix: str, hosts: tuple[str, ...]) -> str:
    """`target` with its absolute path below `prefix`; as it is when it is relative or names a host not in `hosts`."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    if not parts.path.startswith("/") or (parts.netloc and parts.netloc not in hosts):
        return target
    prefix = prefix.rstrip("/")
    path = parts.path if parts.path.startswith(prefix + "/") else prefix + parts.path
    return urlunsplit(("", "", path, parts.query, parts.fragment))


class _Tags(HTMLParser):
    """Where start tags begin and what they should be."""

    def __init__(self, prefix: str, hosts: tuple[str, ...]) -> None:
        super().__init__(convert_charrefs=False)
        self._where = (prefix, hosts)
        self.changed: list[tuple[tuple[int, int], str, str]] = []  # (line, column), as it was, as it should be

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = _URLS.get(tag, ())
        text = self.get_starttag_text() or ""
        new = [(k, below(v, *self._where) if k in names and v else v) for k, v in attrs]
        if new != attrs:
            shown = "".join(f" {k}" if v is None else f' {k}="{html.escape(v)}"' for k, v in new)
            end = "/>" if text.endswith("/>") else ">"
            self.changed.append((self.getpos(), text, f"<{tag}{shown}{end}"))


def rewritten(page: bytes, encoding: str, prefix: str, hosts: tuple[str, ...]) -> bytes:
    """The page with its links below `prefix`, in the same content encoding, one of ENCODINGS. Raises ValueError for a
    body that is not in that encoding."""
    try:
        plain = gzip.decompress(page) if encoding == "gzip" else zlib.decompress(page, -15) if encoding else page
    except (OSError, EOFError, zlib.error) as e:
        raise ValueError(f"not {encoding}: {e}") from e
    text = plain.decode("latin-1")  # one character a byte: what is not a link goes back as it came
    tags = _Tags(prefix, hosts)
    tags.feed(text)
    tags.close()
    starts = [0]
    for part in text.split("\n"):
        starts.append(starts[-1] + len(part) + 1)
    out: list[str] = []
    done = 0
    for (line, column), old, new in tags.changed:
        at = starts[line - 1] + column
        out += [text[done:at], new]
        done = at + len(old)
    made = "".join([*out, text[done:]]).encode("latin-1", "xmlcharrefreplace")
    if encoding == "gzip":
        return gzip.compress(made)
    return _deflated(made) if encoding else made


def _deflated(plain: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(plain) + packer.flush()
