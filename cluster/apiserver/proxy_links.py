"""Links of a proxied page, put below the proxy's path: the Location header, and URLs in attributes of HTML.

Pure. A page behind `/api/v1/.../proxy/` links to `/style.css` of its own server; the browser would ask the API server
for it. Only such attributes' values change; URLs inside scripts and style sheets stay as they are, as in Kubernetes.
The page is anybody's: every byte is looked at a fixed number of times, and there are at most MAX_BYTES of them.
Source: apimachinery `pkg/util/proxy/transport.go`, https://html.spec.whatwg.org/#attributes-3.
"""

from __future__ import annotations

import gzip
import html
import re
import zlib
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
MAX_BYTES = 1 << 20  # of a page, unpacked
_WINDOW_BITS = {"gzip": 31, "deflate": -15}

_MARKUP = re.compile(r"<!--|<([A-Za-z][^\s/>]*)", re.ASCII)
# What follows a tag's name. Possessive: a tag without an end is found to be one in a single pass.
_TO_TAG_END = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""", re.ASCII)
_ATTRIBUTE = re.compile(r"""([^\s/>=]+)(\s*=\s*)("[^"]*"|'[^']*'|[^\s>]+)""", re.ASCII)
# In these there are no tags up to their own end tag.
_TEXT_ONLY = ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
_TEXT_ENDS = {tag: re.compile(f"</{tag}", re.ASCII | re.IGNORECASE) for tag in _TEXT_ONLY}


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


def rewritten(page: bytes, encoding: str, prefix: str, hosts: tuple[str, ...]) -> bytes:
    """The page with its links below `prefix`, in the same content encoding, one of ENCODINGS. Raises ValueError for a
    body that is not in that encoding, or is larger than MAX_BYTES without it."""
    text = _unpacked(page, encoding).decode("latin-1")  # one character a byte: what is no link goes back as it came
    out: list[str] = []
    done = at = 0
    while found := _MARKUP.search(text, at):
        tag = (found[1] or "").lower()
        end = _TO_TAG_END.match(text, found.end()) if tag else None
        at = end.end() if end else text.find("-->", found.start() + 2) if not tag else -1
        if at < 0:  # neither a tag nor a comment without an end is followed by anything
            break
        if names := _URLS.get(tag):
            attributes = _with_links(text[found.end() : at], names, prefix, hosts)
            out += [text[done : found.end()], attributes]
            done = at
        if tag in _TEXT_ENDS and text[at - 2] != "/":
            closing = _TEXT_ENDS[tag].search(text, at)
            if closing is None:
                break
            at = closing.end()
    made = "".join([*out, text[done:]]).encode("latin-1", "xmlcharrefreplace")
    if encoding == "gzip":
        return gzip.compress(made)
    return _deflated(made) if encoding else made


def _with_links(attributes: str, names: tuple[str, ...], prefix: str, hosts: tuple[str, ...]) -> str:
    def replaced(found: re.Match[str]) -> str:
        name, equals, value = found.groups()
        if name.lower() not in names:
            return found[0]
        quote = value[0] if value[0] in "\"'" and value[-1] == value[0] else ""
        old = value[1:-1] if quote else value
        new = below(old, html.escape(prefix), hosts)
        if new == old:
            return found[0]
        return name + equals + (f"{quote}{new}{quote}" if quote else f'"{new.replace(chr(34), "&quot;")}"')

    return _ATTRIBUTE.sub(replaced, attributes)


def _unpacked(page: bytes, encoding: str) -> bytes:
    if encoding:
        unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            page = unpacker.decompress(page, MAX_BYTES + 1)
        except zlib.error as e:
            raise ValueError(f"not {encoding}: {e}") from e
        if len(page) <= MAX_BYTES and (not unpacker.eof or unpacker.unused_data):
            raise ValueError(f"not {encoding}: it ends too early, or goes on after its end")
    if len(page) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return page


def _deflated(plain: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(plain) + packer.flush()
