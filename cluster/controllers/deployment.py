"""The Deployment controller: carries out what `deployment_core.decide` says, one plan at a time.

A thin shell: reads informers, writes ReplicaSets, the Deployment's revision annotation and its status. After each write
the informers show it at once, so the next plan starts from it; the loop ends when a plan has no writes left.
"""

from __future__ import annotations

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of
from cluster.api.pods import is_terminal
from cluster.api.selectors import LabelSelector
from cluster.controllers import deployment_core as core
from cluster.controllers.deployment_view import REVISION
from cluster.controllers.env import Env
from cluster.controllers.ownership import candidates, concerned, index_by_owner, owned, selector_of
from cluster.controllers.refs import claim
from cluster.controllers.status import report
from cluster.machinery.client import Obj, clone, ignore_not_found, is_already_exists, split_key
from cluster.machinery.reconciler import Reconciler, Result

_SETS = "replicasets.apps"


class DeploymentController:
    name = "deployment"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._deployments = env.informer("deployments.apps")
        self._sets = env.informer(_SETS)
        self._pods = env.informer("pods")
        self._events = env.recorder("deployment-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_deployment_syncs)
        index_by_owner(self._sets)
        index_by_owner(self._pods)
        self._deployments.add_handler(self.reconciler.enqueue)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._deployments.items())

    # ---- what wakes it

    def _on_set(self, old: Obj | None, new: Obj | None) -> None:
        for key in concerned("Deployment", self._deployments, old, new):
            self.reconciler.queue.add(key)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        """Only Recreate waits for pods: look when one has gone."""
        if old is None or not (new is None or (is_terminal(new) and not is_terminal(old))):
            return
        ref = controller_of(old)
        if ref is None or ref.get("kind") != "ReplicaSet":
            return
        rs = self._sets.get(old["metadata"]["namespace"], ref["name"])
        owner = controller_of(rs) if rs is not None else None
        if owner is not None and owner.get("kind") == "Deployment":
            self.reconciler.queue.add(f"{old['metadata']['namespace']}/{owner['name']}")

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        deployment = self._deployments.get(namespace, name)
        if deployment is None:
            return None
        selector = selector_of(deployment)
        if selector.empty:
            self._events.event(
                deployment,
                "Warning",
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            )
            return None
        sets = await self._owned(deployment, selector)
        plan = core.decide(deployment, sets, old_pods=self._old_pods(deployment, sets), now=self._env.clock())
        for action in plan.actions:
            deployment = await self._act(deployment, action)
        # After writes the informers have changed already, and their handlers have queued the next look: the status
        # is reported from the counts this plan was made from, so that progress is judged step by step.
        await report(self._env.client, "deployments.apps", deployment, plan.status)
        return Result(plan.recheck_after_s)

    async def _owned(self, deployment: Obj, selector: LabelSelector) -> list[Obj]:
        return await claim(self._env.client, _SETS, deployment, candidates(self._sets, deployment), selector.matches)

    def _old_pods(self, deployment: Obj, sets: list[Obj]) -> int:
        if (deployment["spec"].get("strategy") or {}).get("type") != "Recreate":
            return 0
        _, old = core.split(deployment, sets)
        return sum(1 for rs in old for pod in owned(self._pods, rs) if not is_terminal(pod))

    async def _act(self, deployment: Obj, action: core.Action) -> Obj:
        client, meta = self._env.client, deployment["metadata"]
        match action:
            case core.CreateReplicaSet(obj):
                return await self._create(deployment, obj)
            case core.UpdateReplicaSet(obj, before, after):
                await client.update(_SETS, obj)
                if after != before:
                    way = "up" if after > before else "down"
                    self._scaled(
                        deployment, f"Scaled {way} replica set {obj['metadata']['name']} from {before} to {after}"
                    )
            case core.DeleteReplicaSet(obj):
                await self._delete(obj)
            case core.SetRevision(revision):
                patch = {"metadata": {"uid": meta["uid"], "annotations": {REVISION: revision}}}
                return await client.patch("deployments.apps", meta["name"], patch, meta["namespace"])
        return deployment

    async def _create(self, deployment: Obj, rs: Obj) -> Obj:
        try:
            made = await self._env.client.create(_SETS, rs, deployment["metadata"]["namespace"])
        except ApiError as err:
            if not is_already_exists(err):
                self._events.event(
                    deployment,
                    "Warning",
                    "ReplicaSetCreateError",
                    f'Failed to create new replica set "{rs["metadata"]["name"]}": {err.message}',
                )
                raise
            return await self._collided(deployment, rs, err)
        name, replicas = made["metadata"]["name"], made["spec"]["replicas"]
        if replicas:
            self._scaled(deployment, f"Scaled up replica set {name} from 0 to {replicas}")
        return deployment

    async def _collided(self, deployment: Obj, rs: Obj, err: ApiError) -> Obj:
        """The name is taken: by our own earlier write (then all is well), or by another template of the same hash."""
        meta = deployment["metadata"]
        found = await self._env.client.get(_SETS, rs["metadata"]["name"], meta["namespace"])
        ref = controller_of(found)
        if ref is not None and ref.get("uid") == meta["uid"] and core.same_template(deployment, found):
            self._env.informers.observe(_SETS, found)
            return deployment
        changed = clone(deployment)
        status = changed.setdefault("status", {})
        status["collisionCount"] = int(status.get("collisionCount") or 0) + 1
        await self._env.client.update("deployments.apps", changed, subresource="status")
        raise err

    async def _delete(self, rs: Obj) -> None:
        meta = rs["metadata"]
        with ignore_not_found():
            await self._env.client.delete(_SETS, meta["name"], meta["namespace"], uid=meta["uid"])

    def _scaled(self, deployment: Obj, message: str) -> None:
        self._events.event(deployment, "Normal", "ScalingReplicaSet", message)
