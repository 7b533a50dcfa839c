"""`sk8 doctor` and `sk8 dump`: what is wrong and what to do; what is needed to find out later. IO."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509

from cluster.cli import agent
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.clusters import existing
from cluster.cli.doctor_judge import Facts, Finding, judge
from cluster.cli.output import Output, paint
from cluster.cli.store import NO_STORE, store_status
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig
from cluster.machinery.provider import ProviderError

_LISTS = {"nodes": "/api/v1/nodes", "pods": "/api/v1/pods", "claims": "/api/v1/persistentvolumeclaims"}
_DUMPED = (
    "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/pods", "/api/v1/services", "/api/v1/events",
    "/api/v1/persistentvolumes", "/api/v1/persistentvolumeclaims", "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets", "/apis/apps/v1/statefulsets", "/apis/apps/v1/daemonsets", "/apis/batch/v1/jobs",
    "/apis/discovery.k8s.io/v1/endpointslices", "/apis/coordination.k8s.io/v1/leases",
    "/apis/storage.k8s.io/v1/volumeattachments", "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/networking.k8s.io/v1/networkpolicies", "/apis/policy/v1/poddisruptionbudgets",
)  # fmt: skip
_LOG_TAIL = 256 << 10
_HIDDEN = "(left out by sk8 dump)"


def add_commands(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    text = "look for what is wrong with the cluster, and say what to do"
    add = commands.add_parser("doctor", parents=[common, listing], help=text, description=text)
    add.set_defaults(run=_doctor)
    text = "write a support bundle: objects and logs; no Secrets, ConfigMaps, keys or environment values"
    add = commands.add_parser("dump", parents=[common], help="write a support bundle without secrets", description=text)
    add.add_argument(
        "file", type=Path, nargs="?", default=Path("sk8-dump.tar.gz"), metavar="FILE", help="(%(default)s)"
    )
    add.set_defaults(run=_dump)


async def _doctor(args: argparse.Namespace, out: Output) -> int:
    return await doctor(existing(args.base), out, as_json=args.output == "json")


async def _dump(args: argparse.Namespace, out: Output) -> int:
    return await dump(existing(args.base), args.file, out)


# -- doctor ----------------------------------------------------------------------------------------------------------
async def doctor(config: ClusterConfig, out: Output, *, as_json: bool) -> int:
    """0 when nothing is wrong, 3 otherwise (as `sk8 status` of a cluster that is not healthy)."""
    with out.waiting("looking at every part"):
        found = judge(await gather(config))
    if as_json:
        out.result(json.dumps([asdict(finding) for finding in found], indent=2))
    elif not found:
        out.result("nothing wrong was found")
    else:
        for finding in found:
            out.result(_text(finding, out))
    return 3 if found else 0


def _text(finding: Finding, out: Output) -> str:
    mark = paint("error", "red", out.out) if finding.level == "error" else paint("warning", "yellow", out.out)
    return f"{mark}: {finding.message}\n    try: {finding.fix}"


async def gather(config: ClusterConfig) -> Facts:
    local = config.provider == "local"  # VMs have no host agent, and nobody here can tell whether one is on
    answers = not local or await agent.answers(config)
    power: dict[str, str] = {}
    if local and answers:
        try:
            machines = await LocalProvider(config.host_socket, timeout_s=10).local_machines()
            power = {m.status.name: m.status.state for m in machines}
        except ProviderError:
            answers = False
    api, unanswered = AdminApi(config), []
    lists: dict[str, list[dict[str, Any]]] = {}
    for what, path in _LISTS.items():
        try:
            lists[what] = (await api.get(path))["items"]
        except (ApiUnavailable, FileNotFoundError) as e:
            unanswered.append(str(e))
    return Facts(
        now=time.time(),
        agent=answers,
        power=power,
        unanswered=unanswered[:1],
        store=await store_status(config) if answers else dict(NO_STORE),
        control_planes=len(config.control_planes),
        leaders=await api.leaders() if not unanswered else {},
        nodes=lists.get("nodes", ()),
        pods=lists.get("pods", ()),
        claims=lists.get("claims", ()),
        certificates=await asyncio.to_thread(_certificates, config),
        disk_free_bytes=shutil.disk_usage(config.base).free,
        memory_free_bytes=psutil.virtual_memory().available,
    )


def _certificates(config: ClusterConfig) -> dict[str, float]:
    """When each certificate of the cluster and of its machines ends; files that are no certificate do not count."""
    found: dict[str, float] = {}
    for directory in (config.pki, *(config.machine(spec.name).pki for spec in config.machines)):
        for path in sorted(directory.glob("*.crt")):
            try:
                found[str(path)] = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
            except (OSError, ValueError):
                continue
    return found


# -- dump ------------------------------------------------------------------------------------------------------------
async def dump(config: ClusterConfig, target: Path, out: Output) -> int:
    """Always a file, however little answers: what is missing is the first thing somebody will look for."""
    files: dict[str, bytes] = {}
    facts = await gather(config)
    findings = [asdict(finding) for finding in judge(facts)]
    about = {"findings": findings, "store": facts.store, "power": facts.power, "leaders": facts.leaders}
    files["doctor.json"] = _json(about)
    api = AdminApi(config)
    with out.step("objects") as step:
        for path in _DUMPED:
            step.update(path)
            name = f"objects/{path.rsplit('/', 1)[1]}.json"
            try:
                files[name] = _json(without_secrets(await api.get(path)))
            except (ApiUnavailable, FileNotFoundError) as e:
                files[f"{name}.error"] = str(e).encode()
    with out.step("logs"):
        files |= await asyncio.to_thread(lambda: dict(_logs(config)))
    await asyncio.to_thread(_write, target, files)
    out.result(str(target))
    return 0


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def without_secrets(value: Any) -> Any:
    """The object with no value of an environment variable, header or driver, no argument, no copy of itself."""
    if isinstance(value, list):
        return [without_secrets(v) for v in value]
    if not isinstance(value, Mapping):
        return value
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "env" and isinstance(inner, list):
            out[key] = [e | {"value": _HIDDEN} if "value" in e else e for e in inner]
        elif key in ("command", "args") and isinstance(inner, list):
            out[key] = [_HIDDEN]
        elif key == "httpHeaders" and isinstance(inner, list):
            out[key] = [header | {"value": _HIDDEN} for header in inner]
        elif key in ("volumeAttributes", "attributes") and isinstance(inner, Mapping):
            out[key] = dict.fromkeys(inner, _HIDDEN)
        elif key == "kubectl.kubernetes.io/last-applied-configuration":
            out[key] = _HIDDEN
        else:
            out[key] = without_secrets(inner)
    return out


def _logs(config: ClusterConfig) -> Iterator[tuple[str, bytes]]:
    """The ends of all parts' logs; nothing else of a machine's disk."""
    places = [(spec.name, config.machine(spec.name).log_dir) for spec in config.machines]
    for name, directory in (*places, ("host", config.run)):
        for path in sorted(directory.glob("*.log")):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_TAIL))
                yield f"logs/{name}/{path.name}", file.read()


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    target.unlink(missing_ok=True)
    private = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(private, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(f"sk8-dump/{name}")
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            bundle.addfile(member, io.BytesIO(data))
