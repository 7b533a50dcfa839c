"""`sk8 down`: stops the cluster in good order and removes everything sk8 made. Idempotent. IO."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.cli import agent, kubeconfig
from cluster.cli.engine import PrivateEngine
from cluster.cli.output import CommandError, Output
from cluster.cloud import cleanup
from cluster.cloud.engine import Engine
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.head import newest
from cluster.machinery.provider import ProviderError


async def down(base: Path, out: Output, *, keep_data: bool, environment: Mapping[str, str] = os.environ) -> None:
    if os.geteuid() != 0:
        raise CommandError("sk8 down needs root, as sk8 up did", "run it as root (sudo)")
    config = _config(base)
    _refuse(base, config)
    if await agent.answers(config):
        await _stop_machines(config, out)
    await agent.stop(config)
    stayed = await _remove(config, out)
    if await PrivateEngine(config).stop(keep_data=keep_data):
        out.say("  the private container engine is stopped")
        if not keep_data:
            stayed.containers.clear()  # they went with its data
    await asyncio.to_thread(_forget, config, keep_data, out, environment, stayed)
    if words := stayed.words():
        raise CommandError(f"all is gone but {', '.join(words)}", _advice(config, stayed))
    kept = f"; objects and volumes are kept in {config.base_dir}" if keep_data and config.base.exists() else ""
    out.say(f"The cluster is down{kept}.")


async def _remove(config: ClusterConfig, out: Output) -> cleanup.Stayed:
    found = await asyncio.to_thread(cleanup.find, config)
    engine = Engine(config.engine_socket)
    if found.any and not await engine.answers():
        text = "no container engine answers: what ran in containers is ended; they stay in its list."
        out.warn(text, "sk8 down again once it runs")
    with out.step("containers, links, mounts and devices removed") as step:
        stayed = await cleanup.remove(config, engine)
        left = await asyncio.to_thread(cleanup.find, config)
        if left.any:
            stayed.other.append(left.summary())
        step.update(", ".join(f"all but {words}" for words in stayed.words()) or (found.summary() if found.any else ""))
    return stayed


def _advice(config: ClusterConfig, stayed: cleanup.Stayed) -> str:
    if stayed.containers:
        named = " ".join(i[:12] for i in stayed.containers)
        return f"restart the container engine at {config.engine_socket}, then: docker rm --force {named}"
    return "sk8 down again; ps -o pid,stat,wchan:30,args shows what a process waits for, fuser -vm who uses a mount"


def _config(base: Path) -> ClusterConfig:
    """The cluster's own, or the defaults: what is left of a damaged cluster must go, too."""
    try:
        return load_cluster(base)
    except (FileNotFoundError, ConfigError):
        return ClusterConfig.local(base_dir=str(base.resolve()))


def _refuse(base: Path, config: ClusterConfig) -> None:
    """Neither another cluster nor another program's directory is taken for this one. Raises CommandError."""
    running = agent.serves(config)
    if running is not None and running != config.base:
        raise CommandError(f"the cluster that runs here is that of {running}", f"sk8 down --base {running} removes it")
    others = cleanup.foreign(base)
    if others and not (base / "cluster.json").exists():
        raise CommandError(
            f"{base} is no cluster's directory: {', '.join(others[:3])} in it is not sk8's",
            "name the cluster's own with --base",
        )


async def _stop_machines(config: ClusterConfig, out: Output) -> None:
    """Ray's head last: while the others stop their actors in good order they still need it."""
    provider = LocalProvider(config.host_socket)
    try:
        on = [m.name for m in await provider.machines() if m.state != "off"]
        with out.step(f"machines {', '.join(on) or '(none on)'} stopped"):
            head = newest(config).machine
            await asyncio.gather(*(provider.stop(name) for name in on if name != head))
            if head in on:
                await provider.stop(head)
    except ProviderError as e:
        out.warn(f"{e.message}; going on without order.")


def _forget(
    config: ClusterConfig, keep_data: bool, out: Output, environment: Mapping[str, str], stayed: cleanup.Stayed
) -> None:
    try:
        kubeconfig.uninstall(kubeconfig.target(environment))
    except (kubeconfig.KubeconfigError, OSError) as e:
        out.warn(f"the kubeconfig was left as it is: {e}.")
    stayed.attempt(f"files in {config.base}", lambda: cleanup.remove_files(config, keep_data=keep_data))
