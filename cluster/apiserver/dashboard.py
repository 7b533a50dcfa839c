"""The web page at /dashboard/: files of cluster/dashboard, read once. IO: reads them when it is made.

The files hold no data of the cluster, so anybody may have them, as a login form must be had; the page asks the API as
the user who signed in. Invariant: what the page may load, and from where, is said by the policy below: scripts and
styles of this server only, none inline, no frames, no other site.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cluster.api import errors
from cluster.apiserver.call import Call, Reply

PREFIX = "/dashboard"
_FILES = Path(__file__).parents[1] / "dashboard"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Dashboard:
    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(_FILES.iterdir()) if path.suffix in _TYPES}

    def serves(self, path: str) -> bool:
        return path == PREFIX or path.startswith(PREFIX + "/")

    def serve(self, call: Call) -> Reply:
        """Raises ApiError 404 for a file that is not there, 405 for other methods."""
        if call.info.verb not in ("get", "head"):
            raise errors.method_not_allowed()
        name = call.info.path.removeprefix(PREFIX).lstrip("/")
        if not name and not call.request.raw_path.partition("?")[0].endswith("/"):
            return Reply(307, content_type="text/plain", headers={"Location": "dashboard/"})
        return self._file(name or "index.html", call.headers.get("If-None-Match", ""))

    def _file(self, name: str, known: str) -> Reply:
        body = self._files.get(name)
        if body is None:
            raise errors.path_not_found()
        kind = _TYPES[Path(name).suffix]
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {**_HEADERS, "ETag": etag}
        if etag in known:
            return Reply(304, content_type=kind, headers=headers)
        return Reply(raw=body, content_type=kind, headers=headers)
