"""Running a command in a Docker container, and attaching to one.

IO: the engine's unix socket. The beginning of a session takes a bounded time; the session is as long as its command.
"""

from __future__ import annotations

import asyncio
import functools
from urllib.parse import urlencode

from cluster.node.docker_http import PREFIX, DockerHttp
from cluster.node.docker_stream import StreamSession, upgrade
from cluster.node.runtime import ExecResult, RuntimeFailure

_MAX_OUTPUT = 10 * 1024  # what a probe's or hook's output is cut to, as the kubelet's


class DockerExec:
    """Raises RuntimeFailure."""

    def __init__(self, http: DockerHttp, socket_path: str) -> None:
        self._http = http
        self._socket = socket_path

    async def result(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        """Raises TimeoutError."""
        session: StreamSession | None = None
        try:
            async with asyncio.timeout(timeout_s):
                session = await self.begin(container_id, command, stdin=False, stdout=True, stderr=True, tty=False)
                output = bytearray()
                async for _, data in session.read():
                    if len(output) < _MAX_OUTPUT:
                        output += data
                return ExecResult(await session.exit_code(), bytes(output[:_MAX_OUTPUT]))
        finally:
            if session is not None:
                await session.close()

    async def begin(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> StreamSession:
        body = {
            "AttachStdin": stdin,
            "AttachStdout": stdout,
            "AttachStderr": stderr and not tty,
            "Tty": tty,
            "Cmd": command,
        }
        answer = await self._http.json("POST", f"/containers/{container_id}/exec", body)
        exec_id = str(answer["Id"])
        start = {"Detach": False, "Tty": tty}
        reader, writer = await upgrade(self._socket, f"{PREFIX}/exec/{exec_id}/start", start)
        return StreamSession(
            reader,
            writer,
            tty=tty,
            resize=functools.partial(self._resize, f"/exec/{exec_id}/resize"),
            exit_code=functools.partial(self._exit_code, exec_id),
        )

    async def _exit_code(self, exec_id: str) -> int:
        """The code comes a moment after the output ends."""
        for delay in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0):
            await asyncio.sleep(delay)
            answer = await self._http.json("GET", f"/exec/{exec_id}/json")
            if not answer.get("Running"):
                return int(answer.get("ExitCode") or 0)
        raise RuntimeFailure("the command closed its output but still runs")

    async def _resize(self, path: str, height: int, width: int) -> None:
        await self._http.json("POST", f"{path}?{urlencode({'h': height, 'w': width})}")

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool
    ) -> StreamSession:
        query = {"stream": "1", "stdin": _flag(stdin), "stdout": _flag(stdout), "stderr": _flag(stderr)}
        path = f"{PREFIX}/containers/{container_id}/attach?{urlencode(query)}"
        reader, writer = await upgrade(self._socket, path)
        try:
            await self._check_running(container_id)
        except BaseException:
            writer.transport.abort()
            raise

        async def no_code() -> int:
            return 0

        return StreamSession(
            reader,
            writer,
            tty=tty,
            resize=functools.partial(self._resize, f"/containers/{container_id}/resize"),
            exit_code=no_code,
            passes_eof=stdin_once,
        )

    async def _check_running(self, container_id: str) -> None:
        """An attachment to a container that has ended waits for its next start, that is for ever. Asked once attached:
        one that still runs then ends the attachment with itself."""
        found = await self._http.json("GET", f"/containers/{container_id}/json")
        if not (found.get("State") or {}).get("Running"):
            raise RuntimeFailure("the container has ended: read its output with kubectl logs", "Conflict")


def _flag(value: bool) -> str:
    return "1" if value else "0"
