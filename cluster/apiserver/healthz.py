"""/healthz, /livez, /readyz: named checks, one by one or together, in kube-apiserver's text. Awaits the checks.

`?verbose` lists all, `?exclude=name` leaves one out, /readyz/<name> asks for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from cluster.api import errors
from cluster.apiserver.call import Reply, text_reply
from cluster.apiserver.requestinfo import flag

Check = Callable[[], Awaitable[str]]
"""Gives "" when all is well, else what is wrong."""


class HealthServer:
    """`endpoints` maps healthz, livez and readyz to their checks by name, in order."""

    def __init__(self, endpoints: Mapping[str, Mapping[str, Check]]) -> None:
        self._endpoints = endpoints

    def serves(self, path: str) -> bool:
        return path[1:].partition("/")[0] in self._endpoints

    async def serve(self, path: str, params: Mapping[str, str]) -> Reply:
        endpoint, _, single = path[1:].partition("/")
        checks = self._endpoints[endpoint]
        if single:
            if single not in checks:
                raise errors.path_not_found()
            checks = {single: checks[single]}
        lines, failed = [], []
        for name, check in checks.items():
            if name == params.get("exclude"):
                lines.append(f"[+]{name} excluded: ok")
                continue
            wrong = await check()
            if wrong:
                failed.append(name)
                lines.append(f"[-]{name} failed: {wrong}")
            else:
                lines.append(f"[+]{name} ok")
        if failed:
            return text_reply("\n".join([*lines, f"{endpoint} check failed", ""]), 500)
        if flag(params, "verbose"):
            return text_reply("\n".join([*lines, f"{endpoint} check passed", ""]))
        return text_reply("ok")


async def healthy() -> str:
    return ""
