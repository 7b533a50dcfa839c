"""The node lifecycle controller: finds silent machines by their leases, gone ones by the provider, and says so.

A shell around `node_lifecycle_core`. Signs of life are changes of a node's Lease in kube-node-lease or of its Ready
heartbeat, timed by our own clock when we see them (clocks of machines need not agree). One timer per node, set anew
only when it fires: a heartbeat costs a dictionary write.

What a verdict leads to, in this order (so that nothing new lands there while the old is cleared away):
  AGENT_DOWN: conditions Unknown, taints.
  UNREACHABLE: conditions Unknown, taints, its pods Ready=False (they leave the endpoints).
  GONE: the same, out-of-service taint, then all its pods deleted with grace 0, at once and in parallel.
Volumes follow by themselves: the attach/detach controller takes them from a node that is out of service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cluster.api.errors import ApiError
from cluster.api.meta import condition, rfc3339
from cluster.api.nodes import internal_ip
from cluster.api.pods import is_ready
from cluster.controllers import node_lifecycle_core as core
from cluster.controllers.env import Env
from cluster.controllers.node_lifecycle_core import Heartbeat, Verdict
from cluster.machinery.client import Obj, clone, ignore_not_found, is_not_found
from cluster.machinery.provider import MachineStatus, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

log = logging.getLogger(__name__)

_LEASE_NAMESPACE = "kube-node-lease"
_RETRY_S = 1.0
_ASK_AGAIN_S = 5.0


class NodeLifecycleController:
    name = "node_lifecycle"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._pods = env.informer("pods")
        self._leases = env.informer("leases.coordination.k8s.io")
        self._events = env.recorder("node-controller")
        self._seen: dict[str, float] = {}
        self._heard: set[str] = set()
        self._beats: dict[str, float] = {}
        self._others_at = 0.0
        self._machines: dict[str, str] = {}
        self._tokens: dict[str, tuple[float, float]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self.reconciler = Reconciler(self.name, self._reconcile, workers=8)
        self._pods.add_index("node", pod_node)
        self._nodes.add_handler(self._on_node)
        self._leases.add_handler(self._on_lease)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reconciler.run())
            if self._env.outside.provider is not None:
                group.create_task(self._watch_machines())

    def resync(self) -> None:
        """A new leader gives every node a whole grace period from now: it has not been listening."""
        now = self._env.monotonic()
        self._others_at = now
        for node in self._nodes.items():
            name = node["metadata"]["name"]
            if core.ready_status(node) == "True":
                self._seen[name] = now
                self._heard.add(name)
            self.reconciler.queue.add(name)

    # ---- signs of life

    def _on_lease(self, old: Obj | None, new: Obj | None) -> None:
        if new is None or new["metadata"]["namespace"] != _LEASE_NAMESPACE:
            return
        if old is not None and (old.get("spec") or {}).get("renewTime") == (new.get("spec") or {}).get("renewTime"):
            return
        # The first sight of a lease is no sign of life: it may be old. Its next renewal is.
        if old is not None:
            self._beat(new["metadata"]["name"])

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            if old is not None:
                self._forget(old["metadata"]["name"])
            return
        name = new["metadata"]["name"]
        self._seen.setdefault(name, self._env.monotonic())
        if core.ready_status(new) != "Unknown":
            beat = _heartbeat(new)
            if old is None or beat != _heartbeat(old):
                self._beat(name)
            elif name not in self._heard:
                self._heard.add(name)
        self.reconciler.queue.add(name)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        """A pod that a late binding put onto a silent or gone machine."""
        if new is None:
            return
        name = new["spec"].get("nodeName", "")
        if self._verdicts.get(name, Verdict.ALIVE) is not Verdict.ALIVE:
            self.reconciler.queue.add(name)

    def _beat(self, name: str) -> None:
        self._seen[name] = self._others_at = self._env.monotonic()
        self._beats[name] = self._env.clock()
        self._heard.add(name)
        if self._verdicts.get(name, Verdict.ALIVE) is not Verdict.ALIVE:
            self.reconciler.queue.add(name)

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._heard.discard(name)
        self._beats.pop(name, None)
        self._verdicts.pop(name, None)

    # ---- proof

    async def _watch_machines(self) -> None:
        provider = self._env.outside.provider
        if provider is None:
            return
        while True:
            try:
                async for machines in provider.watch_machines():
                    self._take_machines(machines)
            except (ProviderError, OSError) as err:
                log.warning("the provider does not say which machines run: %s", err)
            # Without word from the provider nothing is proven any more.
            self._take_machines([])
            await asyncio.sleep(_RETRY_S)

    def _take_machines(self, machines: Sequence[MachineStatus]) -> None:
        states: dict[str, str] = {m.name: m.state for m in machines}
        for name in sorted(set(states) | set(self._machines)):
            if states.get(name) != self._machines.get(name):
                self.reconciler.queue.add(name)
        self._machines = states

    # ---- reconcile

    async def _reconcile(self, name: str) -> Result | None:
        node = self._nodes.get("", name)
        if node is None:
            return None
        judgement = self._judge(name, node)
        if judgement.verdict is Verdict.UNREACHABLE and await self._renewed_meanwhile(name):
            judgement = self._judge(name, node)
        now = self._env.clock()
        before = self._verdicts.get(name, Verdict.ALIVE)
        self._verdicts[name] = judgement.verdict
        node = await self._show_conditions(node, judgement.verdict, now)
        wait_s = await self._show_taints(node, judgement.verdict, now)
        # What was shown so far is the same for a machine that answers: asking it must not hold that up.
        judgement = await self._asked(node, judgement)
        self._verdicts[name] = judgement.verdict
        if judgement.verdict is Verdict.UNREACHABLE:
            await self._pods_not_ready(name, now)
        elif judgement.verdict is Verdict.GONE:
            await self._free(node)
        if before is not judgement.verdict:
            self._say(node, before, judgement.verdict)
        delays = [d for d in (judgement.recheck_after_s, wait_s) if d is not None]
        return Result(min(delays) if delays else None)

    async def _asked(self, node: Obj, judgement: core.Judgement) -> core.Judgement:
        """Whether the machine of a silent kubelet answers; again and again, as both may change without another sign."""
        if judgement.verdict is not Verdict.UNREACHABLE or self._env.outside.machines is None:
            return judgement
        answers = await self._env.outside.machines.answers(node["metadata"]["name"], internal_ip(node))
        return core.Judgement(Verdict.AGENT_DOWN if answers else Verdict.UNREACHABLE, _ASK_AGAIN_S)

    def _judge(self, name: str, node: Obj) -> core.Judgement:
        now, config = self._env.monotonic(), self._env.config
        beat = Heartbeat(self._seen.setdefault(name, now), name in self._heard, self._others_at)
        return core.judge(
            beat,
            self._machine(name, node),
            now,
            self._grace_s(name),
            config.node_startup_grace_period_s,
        )

    def _grace_s(self, name: str) -> float:
        return core.grace_s(self._env.config, self._leases.get(_LEASE_NAMESPACE, name))

    async def _renewed_meanwhile(self, name: str) -> bool:
        """Asks the API before a machine is declared silent: our own stream of events may be what is late."""
        if self._verdicts.get(name, Verdict.ALIVE) is not Verdict.ALIVE:
            return False
        try:
            lease = await self._env.client.get("leases.coordination.k8s.io", name, _LEASE_NAMESPACE)
        except ApiError as err:
            if is_not_found(err):
                return False
            raise
        cached = self._leases.get(_LEASE_NAMESPACE, name)
        if cached is not None and (cached.get("spec") or {}).get("renewTime") == lease["spec"].get("renewTime"):
            return False
        self._beat(name)
        return True

    def _machine(self, name: str, node: Obj) -> str:
        """The provider's word; without one, an earlier "off" stands (proof does not expire) until a sign of life."""
        word = self._machines.get(name, "")
        if word in ("running", "off"):
            return word
        off_since = core.off_since(node)
        if off_since is not None and self._beats.get(name, 0.0) < off_since + 1.0:
            return "off"
        return word

    async def _show_conditions(self, node: Obj, verdict: Verdict, now: float) -> Obj:
        conditions = core.conditions_for(node, verdict, now)
        if conditions is None:
            return node
        was = core.ready_status(node)
        changed = clone(node)
        changed.setdefault("status", {})["conditions"] = conditions
        updated = await self._env.client.update("nodes", changed, subresource="status")
        if was == "True":
            name = node["metadata"]["name"]
            self._events.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        return updated

    async def _show_taints(self, node: Obj, verdict: Verdict, now: float) -> float | None:
        """Writes the taints; seconds after which a NoExecute taint that had to wait may be added."""
        wait_s = None
        evict = verdict is Verdict.GONE
        state = self._zone_state(node)
        if state.deaf:
            self._look_again_at_evicting()
        if not evict and core.ready_status(node) != "True" and (state.deaf or not _has_no_execute(node)):
            wait_s = self._eviction_wait_s(node, state)
            evict = wait_s is None
        taints = core.taints_for(node, verdict, now, evict=evict, spare=state.deaf and not evict)
        if taints is not None:
            changed = clone(node)
            changed["spec"]["taints"] = taints
            await self._env.client.update("nodes", changed)
        return wait_s

    def _look_again_at_evicting(self) -> None:
        """Nobody is Ready any more: those that were tainted before this was known are spared, too."""
        for node in self._nodes.items():
            if _has_no_execute(node) and not core.is_gone(node):
                self.reconciler.queue.add(node["metadata"]["name"])

    def _zone_state(self, node: Obj) -> core.ZoneState:
        zone, config = _zone(node), self._env.config
        peers = ready = elsewhere = 0
        for other in self._nodes.items():
            well = core.ready_status(other) == "True"
            if _zone(other) == zone:
                peers, ready = peers + 1, ready + well
            else:
                elsewhere += well
        return core.zone_state(
            ready,
            peers - ready,
            elsewhere=elsewhere,
            rate=config.node_eviction_rate,
            secondary_rate=config.secondary_node_eviction_rate,
            threshold=config.unhealthy_zone_threshold,
            large=config.large_cluster_size_threshold,
        )

    def _eviction_wait_s(self, node: Obj, state: core.ZoneState) -> float | None:
        """None: taint it now. One token bucket a zone, of size 1, at the rate of the zone's state."""
        now, zone = self._env.monotonic(), _zone(node)
        if state.evictions_per_s <= 0:
            return self._env.config.node_monitor_grace_period_s
        tokens, at = self._tokens.get(zone, (1.0, now))
        tokens = min(1.0, tokens + max(now - at, 0.0) * state.evictions_per_s)
        if tokens < 1.0:
            self._tokens[zone] = (tokens, now)
            return (1.0 - tokens) / state.evictions_per_s
        self._tokens[zone] = (tokens - 1.0, now)
        return None

    async def _pods_not_ready(self, name: str, now: float) -> None:
        """So that they leave the endpoints; the kubelet says Ready again when it is back."""
        await asyncio.gather(*(self._pod_not_ready(pod, now) for pod in self._pods.by_index("node", name)))

    async def _pod_not_ready(self, pod: Obj, now: float) -> None:
        if not is_ready(pod):
            return
        changed = clone(pod)
        for c in changed["status"]["conditions"]:
            if c["type"] == "Ready":
                c.update(status="False", reason="NodeNotReady", lastTransitionTime=rfc3339(now))
        with ignore_not_found():
            await self._env.client.update("pods", changed, subresource="status")
        self._events.event(pod, "Warning", "NodeNotReady", "Node is not ready")

    async def _free(self, node: Obj) -> None:
        pods = self._pods.by_index("node", node["metadata"]["name"])
        await asyncio.gather(*(self._force_delete(pod) for pod in pods))

    async def _force_delete(self, pod: Obj) -> None:
        meta = pod["metadata"]
        try:
            await self._env.client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)
        except ApiError as err:
            if err.code not in (404, 409):
                raise
            return
        node = pod["spec"].get("nodeName", "")
        message = f"Pod is deleted with grace period 0: its machine {node} is off by the provider's word"
        self._events.event(pod, "Normal", "ForceDeletedPod", message)

    def _say(self, node: Obj, before: Verdict, after: Verdict) -> None:
        """An Event that says which timing or proof led to what."""
        name = node["metadata"]["name"]
        now = self._env.monotonic()
        silent_s = max(now - self._seen.get(name, now), 0.0)
        grace_s = self._grace_s(name)
        if after is Verdict.GONE:
            message = (
                f"Machine {name} is off by the provider's word ({silent_s:.1f} s after its last heartbeat): "
                "its pods are deleted and its volumes released at once"
            )
            self._events.event(node, "Warning", "MachineGone", message)
        elif after is Verdict.AGENT_DOWN:
            message = (
                f"The kubelet of {name} was silent for {silent_s:.1f} s (node-monitor-grace-period {grace_s:g} s), but "
                "the machine answers: pods go on and stay in their endpoints while it is started again; they leave as "
                "their tolerationSeconds run out"
            )
            self._events.event(node, "Warning", "MachineAgentDown", message)
        elif after is Verdict.UNREACHABLE:
            message = (
                f"Machine {name} was silent for {silent_s:.1f} s (node-monitor-grace-period {grace_s:g} s): "
                "pods leave as their tolerationSeconds run out, volumes stay until it is proven to be off"
            )
            self._events.event(node, "Warning", "MachineUnreachable", message)
        elif before is not Verdict.ALIVE:
            self._events.event(node, "Normal", "MachineAlive", f"Machine {name} sends heartbeats again")


def pod_node(pod: Obj) -> list[str]:
    """Index: the node a pod is bound to."""
    name = pod["spec"].get("nodeName")
    return [name] if name else []


def _zone(node: Obj) -> str:
    """Region and zone, as Kubernetes' key of a zone."""
    labels = node["metadata"].get("labels") or {}
    return f"{labels.get('topology.kubernetes.io/region', '')}:{labels.get('topology.kubernetes.io/zone', '')}"


def _heartbeat(node: Obj) -> str:
    ready = condition(node, "Ready")
    return str(ready.get("lastHeartbeatTime", "")) if ready is not None else ""


def _has_no_execute(node: Obj) -> bool:
    keys = (core.UNREACHABLE_TAINT, core.NOT_READY)
    return any(t["key"] in keys and t["effect"] == "NoExecute" for t in node["spec"].get("taints") or [])
