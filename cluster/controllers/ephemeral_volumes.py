"""The ephemeral-volume controller: makes the claims of generic ephemeral volumes, each owned by its pod.

Level-based; source: kubernetes pkg/controller/volume/ephemeral. The claim `<pod>-<volume>` goes with its pod by the
collector. A claim of that name which is not the pod's own is never used: the pod waits, and an Event says why.
"""

from __future__ import annotations

from cluster.api.errors import ApiError
from cluster.api.meta import owner_reference
from cluster.api.pods import is_terminal
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, is_already_exists, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_CLAIMS = "persistentvolumeclaims"


class EphemeralVolumeController:
    name = "ephemeral-volume"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pods = env.informer("pods")
        self._claims = env.informer(_CLAIMS)
        self._events = env.recorder("ephemeral_volume")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_volume_syncs)
        self._pods.add_index("ephemeral-claim", _claim_keys)
        self._pods.add_handler(self._on_pod)
        self._claims.add_handler(self._on_claim)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for pod in self._pods.items():
            self._on_pod(None, pod)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is None and new is not None and _templates(new):
            self.reconciler.queue.add(key_of(new))

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        """One has gone: a pod may need it anew."""
        if new is None and old is not None:
            for pod in self._pods.by_index("ephemeral-claim", key_of(old)):
                self.reconciler.queue.add(key_of(pod))

    async def _reconcile(self, key: str) -> Result | None:
        pod = self._pods.get(*split_key(key))
        if pod is None or "deletionTimestamp" in pod["metadata"] or is_terminal(pod):
            return None
        for name, template in _templates(pod).items():
            await self._claim(pod, name, template)
        return None

    async def _claim(self, pod: Obj, volume: str, template: Obj) -> None:
        meta = pod["metadata"]
        name, namespace = f"{meta['name']}-{volume}", meta["namespace"]
        found = self._claims.get(namespace, name)
        if found is None:
            try:
                await self._env.client.create(_CLAIMS, _new_claim(pod, name, template), namespace)
                return
            except ApiError as err:
                if not is_already_exists(err):
                    text = f"ephemeral volume {volume}: create PVC {name}: {err.message}"
                    self._events.event(pod, "Warning", "FailedBinding", text)
                    raise
            found = await self._env.client.get(_CLAIMS, name, namespace)
        if not is_claim_of(pod, found):
            text = f"ephemeral volume {volume}: PVC {name} was not created for pod {meta['name']} (pod is not owner)"
            self._events.event(pod, "Warning", "FailedBinding", text)


def is_claim_of(pod: Obj, claim: Obj) -> bool:
    refs = claim["metadata"].get("ownerReferences") or ()
    return any(r.get("uid") == pod["metadata"]["uid"] and r.get("controller") for r in refs)


def _new_claim(pod: Obj, name: str, template: Obj) -> Obj:
    given = template.get("metadata") or {}
    owner = owner_reference({"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"]})
    meta: Obj = {"name": name, "namespace": pod["metadata"]["namespace"], "ownerReferences": [owner]}
    meta |= {field: given[field] for field in ("labels", "annotations") if given.get(field)}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": clone(template["spec"])}


def _templates(pod: Obj) -> dict[str, Obj]:
    """Claim templates by name of their volume."""
    volumes = pod["spec"].get("volumes") or ()
    return {v["name"]: v["ephemeral"]["volumeClaimTemplate"] for v in volumes if v.get("ephemeral")}


def _claim_keys(pod: Obj) -> list[str]:
    """Index: the keys of the claims of a pod's ephemeral volumes."""
    return [f"{key_of(pod)}-{name}" for name in _templates(pod)]
