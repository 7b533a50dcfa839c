"""`sk8 up`: from nothing, from kept data, or from the remains of a crash to a cluster whose nodes are all Ready.

IO; each step is idempotent, so that an interrupted `sk8 up` is finished by the next one.

 no cluster.json     -> make it: configuration, CA, secrets, first State membership
 cluster.json, off   -> start again from the machines' disks (after `down --keep-data`, a reboot or a crash)
 running             -> say so; an interrupted `up` is finished, a missing kubeconfig context is put back
 machines run, but no host agent -> a new one adopts them: nothing is cleared or restarted; then as for running
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.cli import agent, kubeconfig, preflight, settings
from cluster.cli.addons import ensure_coredns, ensure_pause_image
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.engine import PrivateEngine
from cluster.cli.output import CommandError, Output, Step
from cluster.cloud import cleanup
from cluster.cloud.engine import Engine
from cluster.cloud.local import LocalProvider
from cluster.cloud.machines import living, recorded
from cluster.machine.changes import differing
from cluster.machine.config import ClusterConfig, load_cluster, save_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.files import make_private_dir
from cluster.machine.identity import Authority
from cluster.machinery.provider import MachineState
from cluster.registry.admissionconfig import AdmissionConfigError

READY_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    machines: int | None
    control_planes: int | None
    settings: Path | None
    base: Path
    timeout_s: float = READY_TIMEOUT_S
    cni: str | None = None
    profile: str | None = None
    dual_stack: bool = False


async def up(options: UpOptions, out: Output, environment: Mapping[str, str] = os.environ) -> None:
    begin = time.monotonic()
    existing = _existing(options.base)
    if existing is None and (others := cleanup.foreign(options.base)):
        raise CommandError(
            f"{options.base} is in use: {', '.join(others[:3])} in it is not sk8's",
            "choose a directory of its own with --base DIR",
        )
    config = await asyncio.to_thread(_new_config, options) if existing is None else existing
    if existing is not None:
        _same(existing, options)
        await asyncio.to_thread(_renew_admin, existing, out)
        await _bring_agent_back(existing, out, options.timeout_s)
        if await _is_running(existing, out):
            await _finish(existing, out, options.timeout_s, environment)
            return
    await asyncio.to_thread(_check, config, out)
    await _clear_remains(config, out)
    if existing is None:
        with out.step(f"made the certificate authority and {len(config.machines)} machines' configuration"):
            await asyncio.to_thread(_create, config)
    since = time.time()
    await _start(config, out, options.timeout_s)
    await wait_ready(config, out, options.timeout_s, [m.name for m in config.machines], since)
    await ensure_coredns(config, out)
    path = kubeconfig.target(environment)
    await asyncio.to_thread(_install_kubeconfig, path, config, out)
    out.say()
    out.say(f"The cluster is up after {time.monotonic() - begin:.1f} s: {len(config.machines)} nodes are Ready.")
    out.say(f"The context sk8 is current in {path}. Try:\n")
    out.say(what_next("sk8" if shutil.which("sk8") else sys.argv[0]))


NEXT = (
    ("kubectl get nodes", ""),
    ("make demo", "three tiers: nginx, a Python API, PostgreSQL on a volume"),
    ("{sk8} status", ""),
    ("{sk8} machine kill m2", "a power failure; {sk8} machine start m2 brings it back"),
    ("{sk8} down", "removes everything; --keep-data keeps objects and volumes"),
)


def what_next(program: str) -> str:
    """Commands as they are to be typed: `program` is the name of ours where the shell finds it, else its path."""
    shown = [(command.format(sk8=program), about.format(sk8=program)) for command, about in NEXT]
    width = max(len(command) for command, _ in shown)
    return "\n".join(f"  {command:{width}}  # {about}" if about else f"  {command}" for command, about in shown)


# -- deciding --------------------------------------------------------------------------------------------------------
def _existing(base: Path) -> ClusterConfig | None:
    try:
        return load_cluster(base).validate()
    except FileNotFoundError:
        return None
    except (ConfigError, AdmissionConfigError) as e:
        raise CommandError(f"the cluster in {base} cannot be used: {e}", "sk8 down removes it") from e


def _new_config(options: UpOptions) -> ClusterConfig:
    count = 3 if options.machines is None else options.machines
    planes = options.control_planes
    if planes is None:
        planes = max(n for n in (1, 3) if n <= max(count, 1))
    with settings.can_work():
        chosen = settings.capacity(count) | settings.read(options.settings) | {"base_dir": str(options.base.resolve())}
        chosen |= {"cni": options.cni} if options.cni else {}
        chosen |= {"profile": options.profile} if options.profile else {}
        chosen |= {"dual_stack": True} if options.dual_stack else {}
        return settings.checked(ClusterConfig.local(count, planes, cluster_id=secrets.token_hex(8), **chosen))


def _same(config: ClusterConfig, options: UpOptions) -> None:
    """A cluster that exists keeps its shape: asking for another one is an error, not silence."""
    anew, workers = "sk8 down removes it; then sk8 up makes a new one", "sk8 machine add, or sk8 machine remove"
    for want, have, what, fix in (
        (options.control_planes, len(config.control_planes), "control planes", anew),
        (options.machines, len(config.machines), "machines", workers),
        (options.cni, config.cni, "as its pod network", anew),
        (options.profile, config.profile, "as its profile", anew),
        (options.dual_stack or None, config.dual_stack, "as dual_stack", anew),
    ):
        if want is not None and want != have:
            raise CommandError(f"the cluster in {config.base_dir} has {have} {what}, not {want}", fix)
    with settings.can_work():
        different = differing(config, settings.read(options.settings))
    if different:
        fix = f"sk8 configure {options.settings} gives a running cluster other settings"
        raise CommandError(f"the cluster in {config.base_dir} has another {', '.join(different)}", fix)


def _renew_admin(config: ClusterConfig, out: Output) -> None:
    try:
        Authority(config).renew_admin()
    except OSError as e:
        out.warn(f"the administrator has no new certificate: {e}.", f"put the CA back into {config.pki}")


async def _bring_agent_back(config: ClusterConfig, out: Output, timeout_s: float) -> None:
    """Machines outlive their host agent: a new one adopts them. One that died unwatched is booted again."""
    if await agent.answers(config):
        return
    known = await asyncio.to_thread(recorded, config)
    if not any(known.values()):
        return
    await asyncio.to_thread(_refuse_elsewhere, config)
    if not await agent.start(config):
        return  # it was only slow
    died = [name for name, lives in known.items() if not lives]
    if died:
        await _ensure_engine(config, out)
    on = await _settled(config, timeout_s)
    adopted = [name for name in known if on[name] == "running"]
    out.say(f"the host agent was gone; started it again, adopted {', '.join(adopted) or 'no machine'}")
    died = [name for name in died if on[name] == "off"]
    if died:
        since = time.time()
        await _boot(config, out, died)
        await wait_ready(config, out, timeout_s, died, since)


def _refuse_elsewhere(config: ClusterConfig) -> None:
    """Machines of another directory's cluster, whose agent is gone, are neither ours nor remains."""
    theirs = agent.machines_of(config)
    if theirs is not None and theirs != config.base.absolute():
        fix = f"sk8 up --base {theirs} starts its host agent again; sk8 down --base {theirs} removes it"
        raise CommandError(f"machines of the cluster in {theirs} run here", fix)


async def _settled(config: ClusterConfig, timeout_s: float) -> dict[str, MachineState]:
    """Each machine's state once the host agent is sure of all of them. Raises CommandError."""
    provider = LocalProvider(config.host_socket)
    deadline = time.monotonic() + timeout_s
    while True:
        states = {m.name: m.state for m in await provider.machines()}
        unsure = [name for name, state in states.items() if state == "unknown"]
        if not unsure:
            return states
        if time.monotonic() > deadline:
            message = f"it is not certain whether {', '.join(unsure)} is off, and the time is up"
            raise CommandError(message, f"look into {config.run}/host-agent.log")
        await asyncio.sleep(0.1)


async def _is_running(config: ClusterConfig, out: Output) -> bool:
    """True when its machines run: says how they are and leaves them alone."""
    if not await agent.answers(config):
        return False
    machines = await LocalProvider(config.host_socket).machines()
    on = [m.name for m in machines if m.state == "running"]
    if not on:
        return False
    out.say(f"The cluster in {config.base_dir} is up: {', '.join(on)} running.")
    for machine in machines:
        if machine.name not in on:
            out.warn(f"machine {machine.name} is {machine.state}.", f"sk8 machine start {machine.name}")
    return True


async def _finish(config: ClusterConfig, out: Output, timeout_s: float, environment: Mapping[str, str]) -> None:
    """What an earlier `sk8 up` may not have come to: an API that answers, and the way to it for kubectl."""
    api = AdminApi(config)
    if not await api.ready():
        deadline = time.monotonic() + timeout_s
        with out.step("Ray, the store and the API servers") as step:
            while not await api.ready():
                await _pause(config, deadline, step, "the API is not ready", "sk8 down removes it")
    path = kubeconfig.target(environment)
    try:
        if await asyncio.to_thread(kubeconfig.has, path, api.access()):
            out.say("Nothing was changed.")
            return
    except kubeconfig.KubeconfigError as e:
        out.warn(f"the kubeconfig was left as it is: {e}.", "sk8 kubeconfig prints one of its own")
        return
    await asyncio.to_thread(_install_kubeconfig, path, config, out)
    out.say(f"The context sk8 is current in {path}.")


def _check(config: ClusterConfig, out: Output) -> None:
    facts = preflight.gather(config)
    if agent.process(config) is not None:
        facts = replace(facts, port_owner="")  # it is our own forwarder
    findings = preflight.judge(facts, config)
    for finding in findings:
        if finding.level == "warning":
            out.warn(f"{finding.message}.", finding.fix)
    errors = [f for f in findings if f.level == "error"]
    if errors:
        more = "".join(f"\nerror: {e.message}\n  try: {e.fix}" for e in errors[1:])
        raise CommandError(errors[0].message, errors[0].fix + more)


async def _clear_remains(config: ClusterConfig, out: Output) -> None:
    """After a crash or a reboot: what belongs to no recorded, living machine is stopped; disks and keys stay."""
    found = await asyncio.to_thread(cleanup.find, config)
    if not found.any or await agent.answers(config):
        return
    await asyncio.to_thread(_refuse_elsewhere, config)
    if alive := await asyncio.to_thread(living, config):
        raise CommandError(f"{', '.join(alive)} run, and the host agent does not answer", "sk8 up again")
    with out.step(f"cleared the remains of an earlier run ({found.summary()})"):
        stayed = await cleanup.remove(config, Engine(config.engine_socket))
    if stayed.other:
        raise CommandError(
            f"of an earlier run there is still {', '.join(stayed.other)}", "sk8 down removes the cluster"
        )
    if stayed.containers:
        out.warn(f"an earlier run left {', '.join(stayed.words())}; it is ended.", "Restart the container engine.")


# -- doing -----------------------------------------------------------------------------------------------------------
def _create(config: ClusterConfig) -> None:
    """cluster.json comes last: without it nothing of this is a cluster, and the next `sk8 up` begins again."""
    make_private_dir(config.base)
    authority = Authority(config)
    authority.create()
    for spec in config.machines:
        authority.provision(config.first_machine(spec.name))
    save_cluster(config)


async def _start(config: ClusterConfig, out: Output, timeout_s: float) -> None:
    await _ensure_engine(config, out)
    await ensure_pause_image(config)
    with out.step("host agent and switch"):
        await agent.start(config)
    states = await _settled(config, timeout_s)
    await _boot(config, out, [name for name, state in states.items() if state == "off"])


async def _boot(config: ClusterConfig, out: Output, names: Sequence[str]) -> None:
    provider = LocalProvider(config.host_socket)
    with out.step(f"machines {', '.join(names)} booted"):
        await asyncio.gather(*(provider.start(name) for name in names))


async def _ensure_engine(config: ClusterConfig, out: Output) -> None:
    if not await Engine(config.engine_socket).answers():
        with out.step("no container engine answered; started a private one"):
            await PrivateEngine(config).start()


async def wait_ready(
    config: ClusterConfig,
    out: Output,
    timeout_s: float,
    names: Sequence[str],
    since: float,
    *,
    fix: str = "sk8 down removes it",
) -> None:
    """Until each of `names` runs, is Ready, and was heard of after `since`: kept data says Ready from another life.
    Raises CommandError, whose advice ends with `fix`."""
    provider = LocalProvider(config.host_socket)
    api = AdminApi(config)
    deadline = time.monotonic() + timeout_s
    with out.step("Ray, the store and the API servers") as step:
        while not await api.ready():
            await _pause(config, deadline, step, "the API is not ready", fix)
    with out.step("nodes Ready") as step:
        while True:
            try:
                nodes, renewals = await api.nodes(), await api.renewals()
            except ApiUnavailable:
                nodes, renewals = {}, {}
            on = {m.name for m in await provider.machines() if m.state == "running"}
            ready = [n for n in names if n in on and nodes.get(n) and renewals.get(n, 0.0) > since]
            step.update(", ".join(ready))
            if len(ready) == len(names):
                return
            missing = ", ".join(n for n in names if n not in ready)
            await _pause(config, deadline, step, f"{len(ready)} of {len(names)} nodes are Ready, not {missing}", fix)


async def _pause(config: ClusterConfig, deadline: float, step: Step, what: str, fix: str) -> None:
    if time.monotonic() > deadline:
        logs = config.base / "machines"
        raise CommandError(f"{what}, and the time is up", f"look into {logs}/*/log/ and sk8 status; {fix}")
    await asyncio.sleep(0.1)


def _install_kubeconfig(path: Path, config: ClusterConfig, out: Output) -> None:
    try:
        kubeconfig.install(path, AdminApi(config).access())
    except (kubeconfig.KubeconfigError, OSError) as e:
        out.warn(f"the kubeconfig was left as it is: {e}.", "sk8 kubeconfig prints one of its own")
