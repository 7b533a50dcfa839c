"""The pod network by other people's CNI plugins: runs the binaries that a conflist names. IO: processes, small files.

Stands where `PodNetwork` stands and has its verbs. Source: CNI specification 1.0.0 (containernetworking/cni, SPEC.md).

    ADD    plugins in order, each told the result of the one before (`prevResult`). A record of the sandbox is on disk
           before the first of them runs; the last result is added to it
    CHECK  in order, with the kept result
    DEL    in reverse, with the kept result; a record without one (its ADD was cancelled, failed and could not be
           undone, or the kubelet died) is cleaned up as well as the plugins can. The record goes when all have said yes

A plugin that does not end in time is killed, with the processes that it started.

The conflist is the first of `conf_dir` by name, as for every runtime. `{{.PodCIDR}}` in it becomes the Node's podCIDR,
as in containerd's `conf_template`: plugins know nothing of Nodes. A plugin that says
`"capabilities": {"portMappings": true}` gets the pod's host ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.node.cni import NetworkFailure, raise_loopback
from cluster.node.host_port_rules import PortMapping
from cluster.node.runtime import PodRef

log = logging.getLogger(__name__)
Obj = dict[str, Any]
IFNAME = "eth0"
PLACEHOLDER = "{{.PodCIDR}}"
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SUFFIXES = (".conflist", ".conf", ".json")
_NETNS = "sk8.netns"
_IDENTITY = "sk8.netnsIdentity"
_CALL_S = 120.0
"""The longest that a plugin may take: as long as a kubelet waits for its runtime (runtimeRequestTimeout)."""


@dataclass(frozen=True, slots=True)
class Conflist:
    """A network's plugins, as their configurations. `version` and `name` go into each."""

    name: str
    version: str
    plugins: tuple[Obj, ...]
    checks: bool = True

    @property
    def maps_ports(self) -> bool:
        return any((plugin.get("capabilities") or {}).get("portMappings") for plugin in self.plugins)

    def input_of(self, plugin: Obj, previous: Obj | None, ports: Sequence[PortMapping] = ()) -> Obj:
        """What a plugin reads from its standard input."""
        out = {**plugin, "cniVersion": self.version, "name": self.name}
        capabilities = out.pop("capabilities", None) or {}
        if capabilities.get("portMappings") and ports:
            out["runtimeConfig"] = {"portMappings": [_mapping(port) for port in ports]}
        return out if previous is None else {**out, "prevResult": previous}


def _mapping(port: PortMapping) -> Obj:
    out = {"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol}
    return out | ({"hostIP": port.host_ip} if port.host_ip else {})


def parse_conflist(text: str, cidr: str, source: str) -> Conflist:
    """A conflist, or a single plugin's configuration. Raises NetworkFailure naming what is wrong."""
    try:
        raw = json.loads(text.replace(PLACEHOLDER, cidr))
    except ValueError as err:
        raise NetworkFailure(f"{source} is not JSON: {err}") from err
    plugins = raw.get("plugins", [raw]) if isinstance(raw, dict) else []
    if not plugins or not all(isinstance(plugin, dict) and plugin.get("type") for plugin in plugins):
        raise NetworkFailure(f"{source}: plugins: each needs a type, such as bridge")
    version, name = str(raw.get("cniVersion") or ""), str(raw.get("name") or "")
    if version not in VERSIONS:
        raise NetworkFailure(f"{source}: cniVersion {version!r} is not spoken here; use one of {', '.join(VERSIONS)}")
    if not name:
        raise NetworkFailure(f"{source}: name: the network needs one")
    return Conflist(name, version, tuple(plugins), checks=not raw.get("disableCheck"))


def find_conflist(conf_dir: Path, cidr: str) -> Conflist:
    """Raises NetworkFailure when there is none that can be used."""
    found = sorted(path for path in conf_dir.glob("*") if path.suffix in _SUFFIXES)
    if not found:
        raise NetworkFailure(f"no networks found in {conf_dir}")  # as containerd says it
    return parse_conflist(found[0].read_text(), cidr, str(found[0]))


def address_of(result: Obj) -> str:
    """The first IPv4 address of a result. Raises NetworkFailure."""
    for ip in result.get("ips") or ():
        address = str(ip.get("address") or "").partition("/")[0]
        if address and ":" not in address:
            return address
    raise NetworkFailure("the plugins gave the pod no IPv4 address")


@dataclass(frozen=True, slots=True)
class _Record:
    """A sandbox that plugins know. `result`: of its ADD; None while that has not ended well. `identity`: what `netns`
    was then: once the sandbox has ended another may be there; "" where it is not known."""

    netns: str
    identity: str = ""
    result: Obj | None = None

    def namespace(self) -> str:
        """`netns`, or "" when that is gone. Blocking."""
        found = _identity_of(self.netns)
        return self.netns if found and self.identity in ("", found) else ""


class PluginNetwork:
    """One machine's pod network. Verbs about one sandbox run one at a time, those about others beside them."""

    def __init__(
        self,
        state_dir: str,
        conf_dir: str,
        bin_dirs: Sequence[str],
        call_s: float = _CALL_S,
        loopback: Callable[[str], None] = raise_loopback,
    ) -> None:
        """`loopback` raises that of the namespace it is given, which is the caller's part by CNI's conventions, and
        refuses the machine's own."""
        self._results = Path(state_dir) / "cni-results"
        self._conf_dir = Path(conf_dir)
        self._bin_dirs = tuple(bin_dirs)
        self._call_s = call_s
        self._loopback = loopback
        self._conflist: Conflist | None = None
        self._cidr = ""
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def ready(self) -> bool:
        return self._conflist is not None

    @property
    def cidr(self) -> str:
        return self._cidr

    @property
    def maps_ports(self) -> bool:
        """Whether the plugins open the pods' host ports."""
        return self._conflist is not None and self._conflist.maps_ports

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        kept = self._kept(sandbox_id)
        return (address_of(kept.result),) if kept is not None and kept.result is not None else ()

    async def setup(self, cidr: str, *ipv6: str) -> None:
        """A dual-stack cluster has no plugins (cluster/machine/dual_stack.py). Raises NetworkFailure when there is no
        usable conflist, or a plugin of it is not installed."""
        conflist = await asyncio.to_thread(find_conflist, self._conf_dir, cidr)
        for plugin in conflist.plugins:
            self._binary(plugin["type"])
        self._results.mkdir(parents=True, exist_ok=True)
        self._conflist, self._cidr = conflist, cidr

    async def add(
        self, sandbox_id: str, netns: str, pod: PodRef | None = None, ports: tuple[PortMapping, ...] = ()
    ) -> tuple[str, ...]:
        """Connect a sandbox; returns its address. One that is connected stays so. Raises NetworkFailure."""
        async with self._lock(sandbox_id):
            kept = self._kept(sandbox_id)
            if kept is not None and kept.result is not None:
                return (address_of(kept.result),)
            conflist = self._known()
            await asyncio.to_thread(self._loopback, netns)
            if kept is not None:  # an earlier ADD broke off: plugins may take an address only once
                await self._undo(conflist, sandbox_id, netns, None)
            identity = await asyncio.to_thread(_identity_of, netns)
            self._keep(sandbox_id, _Record(netns, identity))
            result: Obj | None = None
            try:
                for plugin in conflist.plugins:
                    environment = self._environment("ADD", sandbox_id, netns, pod)
                    result = await self._call(plugin, conflist.input_of(plugin, result, ports), environment)
                address = address_of(result or {})
            except NetworkFailure:
                if await self._undo(conflist, sandbox_id, netns, result):
                    self._path(sandbox_id).unlink(missing_ok=True)
                raise
            self._keep(sandbox_id, _Record(netns, identity, result))
            return (address,)

    async def delete(self, sandbox_id: str) -> None:
        """Disconnect; a sandbox that is not connected is no failure. Raises NetworkFailure."""
        async with self._lock(sandbox_id):
            kept = self._kept(sandbox_id)
            if kept is None:
                return
            # without its namespace, which goes with the processes, plugins clean up what is on the machine's side
            netns = await asyncio.to_thread(kept.namespace)
            await self._remove(self._known(), sandbox_id, netns, kept.result)
            self._path(sandbox_id).unlink(missing_ok=True)
        self._locks.pop(sandbox_id, None)

    async def check(self, sandbox_id: str) -> bool:
        """Whether the plugins find the sandbox as they left it."""
        kept = self._kept(sandbox_id)
        if kept is None or kept.result is None:
            return False
        conflist = self._known()
        if not conflist.checks or conflist.version < "0.4.0":  # CHECK came with that version
            return True
        environment = self._environment("CHECK", sandbox_id, await asyncio.to_thread(kept.namespace))
        try:
            for plugin in conflist.plugins:
                await self._call(plugin, conflist.input_of(plugin, kept.result), environment)
        except NetworkFailure:
            return False
        return True

    async def reconcile(self, live: Collection[str]) -> list[str]:
        """Disconnect every recorded sandbox that is not live; returns their ids. What a plugin refuses is tried again
        the next time.
        """
        recorded = {path.stem for path in self._results.glob("*.json")} if self._results.exists() else set()
        stale = sorted(recorded - set(live)) if self.ready else []
        for sandbox_id in list(stale):
            try:
                await self.delete(sandbox_id)
            except NetworkFailure as err:
                log.warning("disconnecting sandbox %s: %s", sandbox_id[:12], err)
                stale.remove(sandbox_id)
        return stale

    async def teardown(self) -> None:
        """Nothing of the machine's own was made."""

    def close(self) -> None:
        """No process outlives its verb."""

    # ---- running plugins

    async def _undo(self, conflist: Conflist, sandbox_id: str, netns: str, result: Obj | None) -> bool:
        """After a failed ADD every plugin is told to clean up, also those that never ran (SPEC, "ADD"). Returns whether
        all of them did.
        """
        environment, clean = self._environment("DEL", sandbox_id, netns), True
        for plugin in reversed(conflist.plugins):
            try:
                await self._call(plugin, conflist.input_of(plugin, result), environment)
            except NetworkFailure as err:  # told here: what is raised is the ADD's own failure
                log.warning("cleaning up after sandbox %s: %s", sandbox_id[:12], err)
                clean = False
        return clean

    async def _remove(self, conflist: Conflist, sandbox_id: str, netns: str, result: Obj | None) -> None:
        environment = self._environment("DEL", sandbox_id, netns)
        for plugin in reversed(conflist.plugins):
            await self._call(plugin, conflist.input_of(plugin, result), environment)

    def _environment(self, command: str, sandbox_id: str, netns: str, pod: PodRef | None = None) -> dict[str, str]:
        names = {"IgnoreUnknown": "1", "K8S_POD_INFRA_CONTAINER_ID": sandbox_id}
        if pod is not None:
            names |= {"K8S_POD_NAMESPACE": pod.namespace, "K8S_POD_NAME": pod.name, "K8S_POD_UID": pod.uid}
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in names.items()),
            "CNI_PATH": ":".join(self._bin_dirs),
        }

    async def _call(self, plugin: Obj, given: Obj, environment: Mapping[str, str]) -> Obj:
        """What the plugin said. Raises NetworkFailure with the plugin's own message."""
        kind, verb = plugin["type"], environment["CNI_COMMAND"].lower()
        try:
            async with asyncio.timeout(self._call_s):
                code, output, errors = await _run(self._binary(kind), json.dumps(given).encode(), environment)
        except TimeoutError as err:
            late = f"it did not end within {self._call_s:g} s and was killed"
            raise NetworkFailure(f'plugin type="{kind}" failed ({verb}): {late}') from err
        except OSError as err:
            raise NetworkFailure(f'plugin type="{kind}" failed ({verb}): {err}') from err
        try:
            said = json.loads(output) if output.strip() else {}
        except ValueError:
            said = {}
        if code:
            why = ": ".join(str(said[key]) for key in ("msg", "details") if said.get(key))
            why = why or errors.decode(errors="replace").strip()[-300:] or f"exit status {code}"
            raise NetworkFailure(f'plugin type="{kind}" failed ({verb}): {why}')
        return said if isinstance(said, dict) else {}

    def _binary(self, kind: str) -> str:
        for directory in self._bin_dirs:
            path = Path(directory) / kind
            if "/" not in kind and os.access(path, os.X_OK):
                return str(path)
        raise NetworkFailure(f'failed to find plugin "{kind}" in path [{" ".join(self._bin_dirs)}]')

    # ---- what is kept

    def _known(self) -> Conflist:
        if self._conflist is None:
            raise NetworkFailure("no CNI configuration was read yet")
        return self._conflist

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    def _path(self, sandbox_id: str) -> Path:
        return self._results / f"{sandbox_id}.json"

    def _kept(self, sandbox_id: str) -> _Record | None:
        try:
            kept: Obj = json.loads(self._path(sandbox_id).read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # the machine lost power: that there was one is all that is known
            return _Record("")
        return _Record(str(kept.pop(_NETNS, "")), str(kept.pop(_IDENTITY, "")), kept or None)

    def _keep(self, sandbox_id: str, record: _Record) -> None:
        new = self._path(sandbox_id).with_suffix(".new")
        new.write_text(json.dumps({**(record.result or {}), _NETNS: record.netns, _IDENTITY: record.identity}))
        new.replace(self._path(sandbox_id))


def _identity_of(path: str) -> str:
    """Of the namespace at /proc/<pid>/ns/net or wherever an engine names it; "" where there is nothing. Blocking.

    Its inode's number, and when the process began: the numbers of both are given to others later.
    """
    try:
        inode = os.stat(path).st_ino
    except OSError:
        return ""
    try:
        stat = (Path(path).parents[1] / "stat").read_text(errors="replace")
        return f"{inode} {stat.rpartition(')')[2].split()[19]}"  # starttime (proc(5))
    except (OSError, IndexError):
        return str(inode)


async def _run(binary: str, given: bytes, environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Exit status, output, errors. Raises OSError. Cancelled, it leaves no process behind: a plugin has a group of its
    own, as it may wait for another that it started (bridge for host-local).
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        binary, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), process_group=0
    )
    try:
        output, errors = await process.communicate(given)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    return process.returncode or 0, output, errors
