"""`sk8 image`: images onto machines before pods need them.

IO: the container engine's socket (load), the API with the administrator's certificate (prepull). Prepulling makes one
short-lived pod for each node, so mirrors, credentials and failures are those of any pod there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.cli.clusters import admin_http, existing
from cluster.cli.output import CommandError, Output
from cluster.machinery.client import Client, ignore_not_found
from cluster.machinery.http_client import HttpClient

Obj = dict[str, Any]
_NAMESPACE = "kube-system"
_LABEL = "sk8.io/prepull"
_LOOK_S = 0.5
_NO_COMMAND = "/sk8-prepull"  # no image has it: the container ends before it begins


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    image = commands.add_parser("image", help="load or pull images before pods need them")
    verbs = image.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add = verbs.add_parser("load", parents=[common], help="put images of a `docker save` archive onto the machines")
    add.add_argument("archive", type=Path, metavar="FILE")
    add.set_defaults(run=_load)
    add = verbs.add_parser("prepull", parents=[common], help="have every node pull images")
    add.add_argument("images", nargs="+", metavar="IMAGE")
    add.add_argument("--node", action="append", default=[], metavar="NAME", help="only there; may be repeated")
    add.add_argument("--pull-secret", default="", metavar="NAME", help=f"a Secret of {_NAMESPACE}")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait (300)")
    add.set_defaults(run=_prepull)


async def _load(args: argparse.Namespace, out: Output) -> int:
    """Local machines share their box's engine: one load is for all of them."""
    config = existing(args.base)
    if not args.archive.is_file():
        raise CommandError(f"{args.archive} is not a file", "docker save -o FILE IMAGE writes one")
    with out.step(f"loading {args.archive.name}"):
        names = await asyncio.to_thread(_load_archive, config.engine_socket, args.archive)
    for name in names:
        out.say(f"  {name}")
    return 0


def _load_archive(socket: str, archive: Path) -> list[str]:
    """The names or ids of what was loaded. Raises CommandError."""
    import docker
    import docker.errors

    try:
        client = docker.DockerClient(base_url=f"unix://{socket}", version="1.41", timeout=600)
        try:
            with archive.open("rb") as data:
                images = client.images.load(data)
        finally:
            client.close()
    except docker.errors.DockerException as err:
        raise CommandError(f"the container engine did not take {archive}: {err}") from err
    return [name for image in images for name in (image.tags or [str(image.id)])]


async def _prepull(args: argparse.Namespace, out: Output) -> int:
    async with HttpClient(admin_http(existing(args.base))) as client:
        nodes = args.node or [n["metadata"]["name"] for n in (await client.list("nodes")).items if _takes_pods(n)]
        pods = [prepull_pod(image, node, args.pull_secret) for image in args.images for node in nodes]
        failures: list[str] = []
        try:
            with out.step(f"{len(args.images)} images on {len(nodes)} nodes"):
                for pod in pods:
                    await client.create("pods", pod, _NAMESPACE)
                async with asyncio.timeout(args.timeout):
                    failures = [why for why in await asyncio.gather(*(_outcome(client, p) for p in pods)) if why]
        except TimeoutError:
            raise CommandError(
                f"not all was pulled within {args.timeout:g} s", f"kubectl get pods -n {_NAMESPACE} -l {_LABEL}"
            ) from None
        finally:
            await _remove(client, pods)
    if failures:
        raise CommandError("\n".join(failures), "docs/operations.md says where kubelets look for images")
    return 0


def _takes_pods(node: Obj) -> bool:
    return "sk8.io/hollow" not in (node["metadata"].get("labels") or {})


def prepull_pod(image: str, node: str, secret: str) -> Obj:
    """A pod whose only container cannot begin; its image is pulled for it all the same."""
    name = f"prepull-{hashlib.sha256(f'{image} {node}'.encode()).hexdigest()[:12]}"
    container = {"name": "image", "image": image, "imagePullPolicy": "IfNotPresent", "command": [_NO_COMMAND]}
    spec: Obj = {
        "nodeName": node,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    if secret:
        spec["imagePullSecrets"] = [{"name": secret}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {_LABEL: "true"}}, "spec": spec}


def verdict(pod: Obj) -> str | None:
    """None while it is being pulled, "" once it is there, else why not."""
    status, spec = pod.get("status") or {}, pod["spec"]
    where = f"{spec['containers'][0]['image']} on {spec['nodeName']}"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            return f"{where}: {waiting.get('message') or waiting['reason']}"
        if "terminated" in (container.get("state") or {}) or waiting.get("reason") == "CreateContainerError":
            return ""
    if status.get("phase") == "Failed":
        return f"{where}: {status.get('reason')}: {status.get('message')}"
    return None


async def _outcome(client: Client, pod: Obj) -> str:
    while True:
        found = verdict(await client.get("pods", pod["metadata"]["name"], _NAMESPACE))
        if found is not None:
            return found
        await asyncio.sleep(_LOOK_S)


async def _remove(client: Client, pods: Sequence[Obj]) -> None:
    for pod in pods:
        with ignore_not_found():
            await client.delete("pods", pod["metadata"]["name"], _NAMESPACE, grace_period_s=0)
