"""Binding what was decided, in batches. IO through the injected Client only.

Invariants: an assumed pod stays accounted until the watch shows it bound or its bind is known to have failed. What is
bound was decided within the turn that the bind compares (`turn.py`). A bind whose outcome is unknown ends its turn:
in the next it cannot happen any more, and the picture shows whether it did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.api.errors import ApiError, FenceLost, not_found
from cluster.machinery.client import Binding, BindOutcomes, Client, Obj, clone, is_not_found
from cluster.machinery.clock import Clock
from cluster.machinery.events import EventRecorder
from cluster.scheduler import metrics
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Placement
from cluster.scheduler.queue import Key, SchedulingQueue
from cluster.scheduler.turn import Turns
from cluster.scheduler.volumes import BOUND_BY_CONTROLLER, SELECTED_NODE
from cluster.scheduler.world import World

log = logging.getLogger(__name__)

VOLUMES = frozenset(("VolumeBinding",))


class Binder:
    def __init__(
        self,
        client: Client,
        turns: Turns,
        world: World,
        queue: SchedulingQueue,
        events: EventRecorder,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self.assumed: dict[str, Key] = {}
        self.queued_at: dict[Key, float] = {}
        self._client = client
        self._turns = turns
        self._world = world
        self._queue = queue
        self._events = events
        self._clock = clock
        self._wake = wake

    async def bind(
        self, placements: list[Placement], profile: Profile, started: float, turn: int, *, together: bool = False
    ) -> None:
        """Write what was decided within `turn`; `together`: all of them or none."""
        if not placements:
            return
        wanted = [Binding(*p.pod.key, p.pod.uid, p.node) for p in placements]
        begun = self._clock()
        outcomes: BindOutcomes
        try:
            outcomes = await self._client.bind(wanted, together=together, turn=turn)
        except FenceLost as error:
            self._turns.lost(turn)
            self._decide_again(placements, profile, error)
            return
        except ApiError as error:
            outcomes = [error] * len(wanted)
        took = self._clock() - begun
        status = "Success" if not any(outcomes) else "Error"
        metrics.EXTENSION_POINT_SECONDS.labels("Bind", status, profile.scheduler_name).observe(took)
        for placement, outcome in zip(placements, outcomes, strict=True):
            if outcome is None:
                self._turns.kept()
                self._bound(placement, profile, started)
            else:
                await self._failed(placement, outcome, profile, started, turn)

    def _bound(self, placement: Placement, profile: Profile, started: float) -> None:
        namespace, name = key = placement.pod.key
        now = self._clock()
        attempts = self._queue.attempts(key) or 1
        metrics.ATTEMPTS.labels("scheduled", profile.scheduler_name).inc()
        metrics.ATTEMPT_SECONDS.labels("scheduled", profile.scheduler_name).observe(now - started)
        metrics.POD_ATTEMPTS.observe(attempts)
        metrics.SLI_SECONDS.labels(str(min(attempts, 16))).observe(now - self.queued_at.pop(key, started))
        self._queue.remove(key)
        pod = self._world.pods.get(namespace, name)
        if pod is not None:
            self._events.event(
                pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {placement.node}"
            )

    def _decide_again(self, placements: list[Placement], profile: Profile, error: FenceLost) -> None:
        """They were decided without knowing what another has bound meanwhile."""
        log.info("%d pods are decided again: %s", len(placements), error.message)
        metrics.ATTEMPTS.labels("error", profile.scheduler_name).inc(len(placements))
        for placement in placements:
            self.undo(placement.pod.uid, placement.pod.key)
            self._queue.again(placement.pod.key)

    async def _failed(self, placement: Placement, error: ApiError, profile: Profile, started: float, turn: int) -> None:
        """Gone or already bound: the watch tells. Unknown outcome: so does the next turn. Anything else: try again."""
        uid, key = placement.pod.uid, placement.pod.key
        if error.code == 504 and await self._was_bound(placement, turn):
            self._bound(placement, profile, started)
            return
        metrics.ATTEMPTS.labels("error", profile.scheduler_name).inc()
        log.info("binding %s/%s to %s: %s", *key, placement.node, error.message)
        self.undo(uid, key, requeue=not is_not_found(error))

    async def _was_bound(self, placement: Placement, turn: int) -> bool:
        self._turns.doubt(turn)
        await self._turns.hold()
        pod = self._world.pods.get(*placement.pod.key)
        if pod is None or pod["metadata"]["uid"] != placement.pod.uid:
            return False
        return bool(pod["spec"].get("nodeName") == placement.node)

    def undo(self, uid: str, key: Key, *, requeue: bool = True) -> None:
        """Take an assumed pod back, unless the watch has confirmed it meanwhile."""
        if self.assumed.pop(uid, None) is None:
            return
        self._world.columns.remove_pod(uid)
        pod = self._world.pods.get(*key)
        if pod is not None and pod["metadata"]["uid"] == uid and pod["spec"].get("nodeName"):
            self._world.account(pod)
        if requeue and pod is not None and pod["metadata"]["uid"] == uid and not pod["spec"].get("nodeName"):
            self._queue.retry(key, self._clock())
        elif pod is None or pod["metadata"]["uid"] == uid:
            self._queue.remove(key)
        self._wake()

    def undo_all(self) -> None:
        for uid, key in list(self.assumed.items()):
            self.undo(uid, key)

    def forget(self, uid: str, key: Key) -> None:
        """The pod is bound, or gone."""
        self.assumed.pop(uid, None)
        self._queue.remove(key)
        self.queued_at.pop(key, None)

    async def ask_for_volumes(
        self, placements: list[Placement], undecided: dict[str, tuple[str, ...]], cycle: int
    ) -> None:
        """For claims that wait for their first consumer: reserve a volume that the chosen node reaches, or write the
        node on the claim, and one is made. The pod waits for them to be bound, and keeps its room on the node."""
        for placement in placements:
            uid, key = placement.pod.uid, placement.pod.key
            self.assumed.pop(uid, None)
            self._world.columns.remove_pod(uid)
            if await self._ask_for_volumes(key[0], undecided.get(uid, ()), placement.node):
                self._world.nominated.set(uid, placement.node, placement.pod.shape, placement.pod.priority)
                self._queue.failed(key, cycle, self._clock(), VOLUMES, patient=True)
            else:
                self._queue.retry(key, self._clock())

    async def _ask_for_volumes(self, namespace: str, claims: tuple[str, ...], node: str) -> bool:
        """False when something was otherwise than it was when the node was chosen: choose again."""
        plan = self._world.volumes.take(namespace, claims, node)
        if plan is None:
            return False
        reserve, make = plan
        try:
            for claim, volume in reserve.items():
                await self._reserve(namespace, claim, volume)
            for claim in make:
                change = {"metadata": {"annotations": {SELECTED_NODE: node}}}
                await self._client.patch("persistentvolumeclaims", claim, change, namespace)
        except ApiError as error:
            log.info("volumes for claims %s of %s on node %s: %s", ", ".join(claims), namespace, node, error.message)
            return False
        return True

    async def _reserve(self, namespace: str, claim_name: str, volume: Obj) -> None:
        """The volume's side of the binding, compared and swapped: of two claims only one can have it. The controller
        does the rest."""
        claim = self._world.volumes.claim(namespace, claim_name)
        if claim is None:
            raise not_found("persistentvolumeclaims", claim_name)
        meta = claim["metadata"]
        changed = clone(volume)
        ref = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim_name}
        changed["spec"]["claimRef"] = ref | {k: meta[k] for k in ("uid", "resourceVersion") if k in meta}
        changed["metadata"].setdefault("annotations", {})[BOUND_BY_CONTROLLER] = "yes"
        self._world.volumes.reserved(await self._client.update("persistentvolumes", changed))
