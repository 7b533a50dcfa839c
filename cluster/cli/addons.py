"""What `sk8 up` gives a new cluster: the pause image, and the `coredns` Deployment with its own. IO; each step is
idempotent.

What is there is left as it is: its owner may have scaled or changed it. Nobody waits for its pods: until they are
Ready, machines ask their own resolvers. Nor for its image, which takes some ten seconds to build from Debian's packages
the first time: then this module runs as a process of its own, which makes the Deployment when the image is there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from string import Template
from typing import Any

import yaml

from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.output import CommandError, Output
from cluster.cloud.machines import agent_environment
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.processes import start_daemon

INFRA = Path(__file__).resolve().parents[2] / "infra"
COREDNS = INFRA / "manifests" / "system" / "coredns.yaml"
BUILD = INFRA / "images" / "build.py"
PAUSE_SCRIPT = INFRA / "images" / "pause" / "build.sh"
IMAGE = "sk8/dns:2"
_COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Deployment": "/apis/apps/v1/namespaces/kube-system/deployments",
}


def coredns_objects(config: ClusterConfig) -> list[dict[str, Any]]:
    text = Template(COREDNS.read_text()).substitute(
        cluster_dns=config.dns_ip,
        cluster_domain=config.domain,
        cluster_cidr=",".join(config.pod_cidrs),
        service_cluster_ip_range=",".join(config.service_cidrs),
    )
    return list(yaml.safe_load_all(text))


async def ensure_pause_image(config: ClusterConfig) -> None:
    """The image that holds a pod's namespaces open; made here, as there is no registry to pull it from."""
    if failure := await _run(config, str(PAUSE_SCRIPT)):
        raise CommandError(f"the pause image cannot be made: {failure}", f"run {PAUSE_SCRIPT} to see more")


async def ensure_coredns(config: ClusterConfig, out: Output) -> None:
    """A cluster without it works as well, so a failure is a warning."""
    log = config.run / "coredns.log"
    try:
        if await _run(config, "docker", "image", "inspect", IMAGE) is None:
            with out.step("DNS for the cluster: Deployment coredns"):
                await _create(config)
            return
        command = [sys.executable, "-m", "cluster.cli.addons", "--base", config.base_dir]
        await asyncio.to_thread(start_daemon, command, agent_environment(), log)
        out.say(f"The image {IMAGE} is being built; the Deployment coredns follows ({log}).")
    except (ApiUnavailable, OSError) as e:
        out.warn(f"the Deployment coredns was not made: {e}.", "sk8 up tries it again")


async def _create(config: ClusterConfig) -> None:
    """Raises ApiUnavailable."""
    api = AdminApi(config)
    for obj in coredns_objects(config):
        await api.create(_COLLECTIONS[obj["kind"]], obj)


async def _run(config: ClusterConfig, *command: str) -> str | None:
    """None when it succeeded, else the last line it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOCKER_HOST": f"unix://{config.engine_socket}"},
    )
    output, _ = await process.communicate()
    lines = output.decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"{command[0]} failed") if process.returncode else None


async def _build_and_create(config: ClusterConfig) -> int:
    failure = await _run(config, "python3", str(BUILD), IMAGE)
    if failure is None:
        try:
            await _create(config)
        except ApiUnavailable as e:
            failure = str(e)
    print(f"coredns: {failure or 'made'}", file=sys.stderr if failure else sys.stdout)
    return 1 if failure else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="the cluster's directory")
    sys.exit(asyncio.run(_build_and_create(load_cluster(parser.parse_args().base))))
