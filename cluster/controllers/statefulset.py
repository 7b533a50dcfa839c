"""The StatefulSet controller: carries out what `statefulset_core.decide` says, one plan at a time.

A thin shell: reads informers, writes pods, claims, ControllerRevisions and status. The store itself keeps "at most one
pod per identity": a pod's name is its identity, so creating a second one fails while the first object exists.
"""

from __future__ import annotations

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of
from cluster.controllers import statefulset_core as core
from cluster.controllers.env import Env
from cluster.controllers.ownership import candidates, index_by_owner, selector_of
from cluster.controllers.pod_control import PodControl
from cluster.controllers.refs import claim
from cluster.controllers.revisions import RevisionHistory
from cluster.controllers.revisions_core import HASH_LABEL
from cluster.controllers.statefulset_identity import (
    claim_names,
    claim_templates,
    is_member,
    ordinal,
    pod_revision,
    split_name,
    start,
)
from cluster.controllers.statefulset_identity import replicas as wanted_replicas
from cluster.controllers.status import report
from cluster.machinery.client import (
    Obj,
    clone,
    ignore_not_found,
    is_already_exists,
    is_conflict,
    key_of,
    split_key,
)
from cluster.machinery.reconciler import Reconciler, Result

_SETS = "statefulsets.apps"
_CLAIMS = "persistentvolumeclaims"


class StatefulSetController:
    name = "statefulset"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._sets = env.informer(_SETS)
        self._pods = env.informer("pods")
        self._claims = env.informer(_CLAIMS)
        self._events = env.recorder("statefulset-controller")
        self._history = RevisionHistory(env, _SETS, HASH_LABEL)
        self._control = PodControl(env.client, self._pods, self._events, env.clock)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_statefulset_syncs)
        index_by_owner(self._pods)
        self._sets.add_handler(self.reconciler.enqueue)
        self._pods.add_handler(self._on_pod)
        self._claims.add_handler(self._on_claim)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._sets.items())

    # ---- what wakes it

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            ref = controller_of(pod)
            namespace = pod["metadata"]["namespace"]
            if ref is not None:
                if ref.get("kind") == "StatefulSet":
                    self.reconciler.queue.add(f"{namespace}/{ref['name']}")
            else:
                # An orphan may be ours to adopt, and one that goes may have held an identity's name.
                parent = split_name(pod["metadata"]["name"])[0]
                if parent and self._sets.get(namespace, parent) is not None:
                    self.reconciler.queue.add(f"{namespace}/{parent}")

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        """An identity may wait for the end of an earlier claim."""
        if new is not None or old is None:
            return
        meta = old["metadata"]
        for set_ in self._sets.in_namespace(meta["namespace"]):
            prefixes = [f"{t['metadata']['name']}-{set_['metadata']['name']}-" for t in claim_templates(set_)]
            if any(meta["name"].startswith(p) for p in prefixes):
                self.reconciler.queue.add(key_of(set_))

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        set_ = self._sets.get(*split_key(key))
        if set_ is None:
            return None
        if selector_of(set_).empty:
            return None
        pods = await self._owned(set_)
        revisions = await self._history.owned(set_)
        update = await self._history.current(set_, revisions)
        name = (set_.get("status") or {}).get("currentRevision", "")
        current = next((r for r in revisions if r["metadata"]["name"] == name), update)
        plan = core.decide(set_, pods, self._claims_of(set_, pods), current, update, self._env.clock())
        try:
            for action in plan.actions:
                await self._act(set_, action)
        finally:
            await report(self._env.client, _SETS, set_, plan.status)
        live = {current["metadata"]["name"], update["metadata"]["name"], *(pod_revision(p) for p in pods)}
        await self._history.trim(set_, revisions, live)
        return Result(plan.recheck_after_s)

    async def _owned(self, set_: Obj) -> list[Obj]:
        members = [p for p in candidates(self._pods, set_) if is_member(set_, p)]
        pods = await claim(self._env.client, "pods", set_, members, selector_of(set_).matches)
        return self._control.known(sorted(pods, key=ordinal))

    def _claims_of(self, set_: Obj, pods: list[Obj]) -> dict[str, Obj]:
        first = start(set_)
        ordinals = {*range(first, first + wanted_replicas(set_)), *(ordinal(p) for p in pods)}
        found: dict[str, Obj] = {}
        for name in (n for i in sorted(ordinals) for n in claim_names(set_, i)):
            present = self._claims.get(set_["metadata"]["namespace"], name)
            if present is not None:
                found[name] = present
        return found

    async def _act(self, set_: Obj, action: core.Action) -> None:
        match action:
            case core.CreatePod(pod, claims):
                await self._create(set_, pod, claims)
            case core.CreateClaims(pod, claims):
                for claim_ in claims:
                    await self._create_claim(set_, pod, claim_)
            case core.DeletePod(pod, failed):
                await self._delete(set_, pod, failed)
            case core.UpdatePod(pod):
                await self._update(set_, pod)
            case core.SetClaimOwners(claim_, refs):
                await self._own(claim_, list(refs))

    async def _create(self, set_: Obj, pod: Obj, claims: tuple[Obj, ...]) -> None:
        set_name, pod_name = set_["metadata"]["name"], pod["metadata"]["name"]
        try:
            for claim_ in claims:
                await self._create_claim(set_, pod, claim_)
            await self._env.client.create("pods", pod, pod["metadata"]["namespace"])
        except ApiError as err:
            if is_already_exists(err):
                await self._look(pod)
            self._event(
                set_, "create", f"create Pod {pod_name} in StatefulSet {set_name} failed error: {err.message}", err
            )
            raise
        self._event(set_, "create", f"create Pod {pod_name} in StatefulSet {set_name} successful")

    async def _look(self, pod: Obj) -> None:
        """A pod of the name exists that the cache did not show: show it, the next round decides."""
        meta = pod["metadata"]
        with ignore_not_found():
            self._env.informers.observe("pods", await self._env.client.get("pods", meta["name"], meta["namespace"]))

    async def _create_claim(self, set_: Obj, pod: Obj, claim_: Obj) -> None:
        name, set_name, pod_name = claim_["metadata"]["name"], set_["metadata"]["name"], pod["metadata"]["name"]
        try:
            await self._env.client.create(_CLAIMS, claim_, claim_["metadata"]["namespace"])
        except ApiError as err:
            if is_already_exists(err):
                return
            why = f"create Claim {name} for Pod {pod_name} in StatefulSet {set_name} failed error: {err.message}"
            self._event(set_, "create", why, err)
            raise
        self._event(set_, "create", f"create Claim {name} Pod {pod_name} in StatefulSet {set_name} success")

    async def _delete(self, set_: Obj, pod: Obj, failed: bool) -> None:
        meta, pod_name = set_["metadata"], pod["metadata"]["name"]
        if failed:
            where = f"StatefulSet {meta['namespace']}/{meta['name']}"
            if (pod.get("status") or {}).get("phase") == "Failed":
                text = f"{where} is recreating failed Pod {pod_name}"
                self._events.event(set_, "Warning", "RecreatingFailedPod", text)
            else:
                text = f"{where} is recreating terminated Pod {pod_name}"
                self._events.event(set_, "Normal", "RecreatingTerminatedPod", text)
        what = f"delete Pod {pod_name} in StatefulSet {meta['name']}"
        try:
            await self._control.delete(pod)
        except ApiError as err:
            self._event(set_, "delete", f"{what} failed error: {err.message}", err)
            raise
        self._event(set_, "delete", f"{what} successful")

    async def _update(self, set_: Obj, pod: Obj) -> None:
        what = f"update Pod {pod['metadata']['name']} in StatefulSet {set_['metadata']['name']}"
        try:
            await self._env.client.update("pods", pod)
        except ApiError as err:
            if not is_conflict(err):
                self._event(set_, "update", f"{what} failed error: {err.message}", err)
            raise
        self._event(set_, "update", f"{what} successful")

    async def _own(self, claim_: Obj, refs: list[Obj]) -> None:
        changed = clone(claim_)
        changed["metadata"]["ownerReferences"] = refs
        with ignore_not_found():
            await self._env.client.update(_CLAIMS, changed)

    def _event(self, set_: Obj, verb: str, message: str, err: ApiError | None = None) -> None:
        type_, outcome = ("Normal", "Successful") if err is None else ("Warning", "Failed")
        self._events.event(set_, type_, f"{outcome}{verb.title()}", message)
