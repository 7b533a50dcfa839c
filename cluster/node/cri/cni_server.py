"""The CNI plugin that a CRI runtime calls for pods: it asks the kubelet, which has the pod network already.

IO: a unix socket, files of configuration. `install` writes a conflist of one plugin, `sk8`, and the plugin itself (a
few lines of Python without imports beyond the standard library): it hands the runtime's request to the socket and
prints the answer. Source: CNI specification 1.0 (ADD, DEL, CHECK, VERSION, error objects).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from cluster.node.cni import NetworkFailure

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0")
_TRY_LATER = 11
_PLUGIN = """#!{python} -ISE
# CNI plugin of sk8: the kubelet behind the configuration's socket does the work.
import json, os, socket, sys

config = json.load(sys.stdin)
names = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
if config.get("type") == "loopback":  # the kubelet's ADD sets it up, too
    lo = {{"interfaces": [{{"name": "lo"}}], "ips": [{{"address": "127.0.0.1/8", "version": "4", "interface": 0}}]}}
    answer = {{"cniVersion": config.get("cniVersion", "1.0.0"), **lo}}
    sys.exit(print(json.dumps(answer)) if os.environ.get("CNI_COMMAND") == "ADD" else 0)
request = {{"env": {{name: os.environ.get(name, "") for name in names}}, "version": config.get("cniVersion", "1.0.0")}}
with socket.socket(socket.AF_UNIX) as kubelet:
    try:
        kubelet.connect(config.get("socket", {socket!r}))
        kubelet.sendall(json.dumps(request).encode() + b"\\n")
        answer = b"".join(iter(lambda: kubelet.recv(65536), b""))
    except OSError as error:
        answer = json.dumps({{"code": 11, "msg": f"the kubelet does not answer: {{error}}"}}).encode()
sys.stdout.buffer.write(answer)
sys.exit(1 if b'"code"' in answer else 0)
"""


class Network(Protocol):
    async def add(self, sandbox_id: str, netns: str) -> tuple[str, ...]: ...

    async def delete(self, sandbox_id: str) -> None: ...

    async def check(self, sandbox_id: str) -> bool: ...


def install(conf_dir: str, bin_dir: str, socket: str) -> None:
    """Make the runtime find the plugin, which also stands in for `loopback` where the usual one is not installed (the
    runtime calls it first of all); blocking, repeatable.
    """
    plugin = {"type": "sk8", "socket": socket}
    conflist = {"cniVersion": "1.0.0", "name": "sk8", "plugins": [plugin]}
    for directory in (conf_dir, bin_dir):
        Path(directory).mkdir(parents=True, exist_ok=True)
    Path(conf_dir, "05-sk8.conflist").write_text(json.dumps(conflist, indent=2) + "\n")
    own, loopback = Path(bin_dir, "sk8"), Path(bin_dir, "loopback")
    for binary in (own,) if loopback.exists() and loopback.stat().st_size > 10_000 else (own, loopback):
        binary.write_text(_PLUGIN.format(python=sys.executable, socket=socket))
        binary.chmod(0o755)


class CniServer:
    def __init__(self, path: str, network: Network) -> None:
        self._path = path
        self._network = network
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        os.chmod(self._path, 0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self.answer(json.loads(await reader.readline()))
            writer.write(json.dumps(answer).encode() if answer is not None else b"")
            await writer.drain()
        except (ValueError, ConnectionError):
            return
        finally:
            writer.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """A CNI result or error object; None for commands whose success says nothing."""
        env, version = request["env"], request["version"]
        command, sandbox = env["CNI_COMMAND"], env["CNI_CONTAINERID"]
        try:
            if command == "ADD":
                return result(version, await self._network.add(sandbox, env["CNI_NETNS"]), env)
            if command == "DEL":
                await self._network.delete(sandbox)
                return None
            if command == "CHECK":
                if not await self._network.check(sandbox):
                    raise NetworkFailure("the sandbox has no address, link or route")
                return None
        except NetworkFailure as err:
            return {"cniVersion": version, "code": _TRY_LATER, "msg": str(err)}
        if command == "VERSION":
            return {"cniVersion": version, "supportedVersions": list(VERSIONS)}
        return {"cniVersion": version, "code": 4, "msg": f"CNI_COMMAND {command!r} is not known"}


def result(version: str, addresses: tuple[str, ...], env: dict[str, str]) -> dict[str, Any]:
    """What ADD answers: one interface in the sandbox, an address and the default route of each family."""
    interface = {"name": env["CNI_IFNAME"], "sandbox": env["CNI_NETNS"]}
    ips = [_ip(version, address) for address in addresses]
    routes = [{"dst": "::/0" if ":" in address else "0.0.0.0/0"} for address in addresses]
    return {"cniVersion": version, "interfaces": [interface], "ips": ips, "routes": routes, "dns": {}}


def _ip(version: str, address: str) -> dict[str, Any]:
    bits, family = (128, "6") if ":" in address else (32, "4")
    old = {} if version.startswith("1.") else {"version": family}
    return {"address": f"{address}/{bits}", "interface": 0, **old}
