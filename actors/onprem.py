"""Ray's node provider for machines that are there already: `ray up infra/ray/onprem.yaml`.

Ray's own provider for such machines knows one kind of worker, and leaves everything on a machine that it lets go. This
one has node types (control planes, workers), and says `infra/ray/teardown.sh` there over SSH before a machine counts as
gone: on `ray down`, and when the configuration no longer names it. A machine that does not answer is let go with a
warning: nobody can clean what is off.

    provider:
      type: external
      module: actors.onprem.OnPremNodeProvider
      machines: {NODE TYPE: [ADDRESS, ...]}        the one of the head's type is the head

IO: SSH, and a small file of which machines are in use and their tags (`~/.sk8/<cluster>.json`, one on the box of the
user, which knows the head, and one on the head, which knows them all). A machine's id is its address.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster.machine.files import locked, write_atomic

log = logging.getLogger(__name__)

TEARDOWN = "test ! -e /opt/sk8/infra/ray/teardown.sh || sudo /opt/sk8/infra/ray/teardown.sh"
FORGET = "sudo /opt/sk8/.venv/bin/sk8 machine forget"
TEARDOWN_S = 300
FORGET_S = 60
Tags = dict[str, str]


class OnPremNodeProvider(NodeProvider):
    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._machines: dict[str, list[str]] = provider_config["machines"]
        self._head_type: str = provider_config["head_type"]
        self._on_head = bool(provider_config.get("on_head"))
        self._file = Path("~/.sk8").expanduser() / f"{cluster_name}.json"
        if self._on_head:
            self._know_the_head()

    # -- what there is -------------------------------------------------------------------------------------------
    def non_terminated_nodes(self, tag_filters: Tags) -> list[str]:
        """Those that are not named any more are let go here: Ray would choose others in their place."""
        state = self._read()
        for address in [a for a in state if a not in self._all()]:
            self.terminate_node(address)
        return [a for a, tags in state.items() if a in self._all() and tag_filters.items() <= tags.items()]

    def nodes_for_teardown(self, tag_filters: Tags) -> list[str]:
        """The user's box has not seen the workers start: all that are named, until they were torn down from here."""
        kind = tag_filters.get(TAG_RAY_NODE_KIND)
        head = set(self._machines[self._head_type])
        done = self._torn_down()
        named = [a for a in self._all() if a not in done]
        return [a for a in named if kind is None or (kind == NODE_KIND_HEAD) == (a in head)]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._read()

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> Tags:
        return self._read().get(node_id, {})

    def set_node_tags(self, node_id: str, tags: Tags) -> None:
        with self._changing() as state:
            if node_id in state:
                state[node_id].update(tags)

    def external_ip(self, node_id: str) -> str:
        outside: dict[str, str] = self.provider_config.get("external_addresses", {})
        return node_id if self._on_head else outside.get(node_id, node_id)

    def internal_ip(self, node_id: str) -> str:
        return node_id

    # -- changing it ---------------------------------------------------------------------------------------------
    def create_node(self, node_config: dict[str, Any], tags: Tags, count: int) -> None:
        """Takes `count` machines of the tags' node type that are not in use, or as many as there are."""
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        with self._changing() as state:
            free = [a for a in self._machines.get(kind, ()) if a not in state][:count]
            state.update({address: dict(tags) for address in free})
        if len(free) < count:
            log.warning("only %d of %d machines of type %s are free", len(free), count, kind)

    def terminate_nodes(self, node_ids: list[str]) -> None:
        """The head last: the others' actors stop in better order while it is there."""
        head = set(self._machines[self._head_type])
        for node_id in sorted(node_ids, key=lambda a: a in head):
            self.terminate_node(node_id)

    def terminate_node(self, node_id: str) -> None:
        log.info("cleaning %s", node_id)
        done = self._ssh(node_id, TEARDOWN)
        if done is None or done.returncode:
            said = "no answer" if done is None else done.stderr.strip()[-300:]
            print(f"warning: {node_id} could not be cleaned ({said}); on it: sudo /opt/sk8/infra/ray/teardown.sh")
        if self._on_head:
            self._forget(node_id)
        with self._changing() as state:
            state.pop(node_id, None)
        self._torn_down().add(node_id)

    @staticmethod
    def _forget(address: str) -> None:
        """Without an API that answers the Node stays; the machine is let go all the same."""
        try:
            done = subprocess.run([*FORGET.split(), address], check=False, timeout=FORGET_S).returncode == 0
        except subprocess.TimeoutExpired:
            done = False
        if not done:
            print(f"warning: the Node of {address} could not be deleted; on the head: {FORGET} {address}")

    def _ssh(self, address: str, command: str) -> subprocess.CompletedProcess[str] | None:
        auth = self.provider_config["auth"]
        keys = [k for k in ("~/ray_bootstrap_key.pem", auth.get("ssh_private_key")) if k]
        key = next((k for k in (Path(k).expanduser() for k in keys[0 if self._on_head else -1 :]) if k.exists()), None)
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=20", "BatchMode=yes"]
        if auth.get("ssh_proxy_command") and not self._on_head:
            options.append(f"ProxyCommand={auth['ssh_proxy_command']}")
        ssh = ["ssh", *(["-i", str(key)] if key else []), *(part for o in options for part in ("-o", o))]
        target = f"{auth['ssh_user']}@{self.external_ip(address)}"
        try:
            return subprocess.run(
                [*ssh, target, command], capture_output=True, text=True, check=False, timeout=TEARDOWN_S
            )
        except subprocess.TimeoutExpired:
            return None

    # -- the file ------------------------------------------------------------------------------------------------
    def _all(self) -> list[str]:
        return [address for addresses in self._machines.values() for address in addresses]

    def _know_the_head(self) -> None:
        """It was made from the user's box, whose file is not here."""
        tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: self._head_type,
            TAG_RAY_NODE_NAME: f"ray-{self.cluster_name}-head",
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }
        with self._changing() as state:
            for address in self._machines[self._head_type]:
                state.setdefault(address, tags)

    def _torn_down(self) -> set[str]:
        """By this process; Ray asks again until nothing is left, perhaps through another instance."""
        return _TORN_DOWN.setdefault(self.cluster_name, set())

    def _read(self) -> dict[str, Tags]:
        try:
            found: dict[str, Tags] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return found

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Tags]]:
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        with locked(self._file.with_suffix(".lock")):
            state = self._read()
            yield state
            write_atomic(self._file, json.dumps(state).encode())

    # -- the configuration ---------------------------------------------------------------------------------------
    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Each type has as many nodes as machines; what SSH needs and who is head come with the provider's part."""
        provider = cluster_config["provider"]
        provider["auth"] = dict(cluster_config["auth"])
        provider["head_type"] = cluster_config["head_node_type"]
        unknown = sorted(set(provider["machines"]) - set(cluster_config["available_node_types"]))
        if unknown or len(provider["machines"].get(provider["head_type"], ())) != 1:
            raise ValueError(
                f"provider.machines: one machine of type {provider['head_type']}, and no unknown types {unknown}"
            )
        for name, kind in cluster_config["available_node_types"].items():
            count = len(provider["machines"].get(name, ()))
            kind["min_workers"] = kind["max_workers"] = 0 if name == provider["head_type"] else count
        cluster_config["max_workers"] = sum(
            kind["max_workers"] for kind in cluster_config["available_node_types"].values()
        )
        return cluster_config

    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        cluster_config["provider"] = cluster_config["provider"] | {"on_head": True}
        return cluster_config


_TORN_DOWN: dict[str, set[str]] = {}
