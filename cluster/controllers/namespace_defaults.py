"""What every namespace gets by itself: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

Two small controllers, level-based: they look at a namespace whenever it or the object in question changes.
"""

from __future__ import annotations

from pathlib import Path

from cluster.api.errors import ApiError
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, is_already_exists
from cluster.machinery.informer import Informer
from cluster.machinery.reconciler import Reconciler, Result

CA_MAP = "kube-root-ca.crt"
_FORBIDDEN_TERMINATING = 403


def _active(namespace: Obj | None) -> bool:
    return (
        namespace is not None
        and "deletionTimestamp" not in namespace["metadata"]
        and (namespace.get("status") or {}).get("phase", "Active") == "Active"
    )


class _PerNamespace:
    """Queue plumbing shared by both: namespaces, and the object `name` of `informer` in each."""

    def __init__(self, env: Env, informer: Informer, name: str, reconciler: Reconciler) -> None:
        self.namespaces = env.informer("namespaces")
        self._name = name
        self._queue = reconciler.queue
        self.namespaces.add_handler(self._on_namespace)
        informer.add_handler(self._on_object)

    def resync(self) -> None:
        for namespace in self.namespaces.items():
            self._queue.add(namespace["metadata"]["name"])

    def _on_namespace(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self._queue.add(new["metadata"]["name"])

    def _on_object(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        if obj is not None and old is not None and obj["metadata"]["name"] == self._name:
            self._queue.add(obj["metadata"]["namespace"])


class ServiceAccountController:
    name = "serviceaccount"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._accounts = env.informer("serviceaccounts")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_serviceaccount_syncs)
        self._wiring = _PerNamespace(env, self._accounts, "default", self.reconciler)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self._wiring.resync()

    async def _reconcile(self, namespace: str) -> Result | None:
        if not _active(self._wiring.namespaces.get("", namespace)) or self._accounts.get(namespace, "default"):
            return None
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }
        await _create(self._env, "serviceaccounts", account, namespace)
        return None


class RootCaPublisher:
    """The CA that pods verify the API server with, from `root_ca_file`."""

    name = "root_ca_certificate_publisher"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._maps = env.informer("configmaps")
        self._bundle = Path(env.config.root_ca_file).read_text(encoding="utf-8") if env.config.root_ca_file else ""
        self.reconciler = Reconciler(self.name, self._reconcile, workers=2)
        self._wiring = _PerNamespace(env, self._maps, CA_MAP, self.reconciler)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self._wiring.resync()

    async def _reconcile(self, namespace: str) -> Result | None:
        if not self._bundle or not _active(self._wiring.namespaces.get("", namespace)):
            return None
        data = {"ca.crt": self._bundle}
        current = self._maps.get(namespace, CA_MAP)
        if current is None:
            wanted = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": CA_MAP,
                    "namespace": namespace,
                    "annotations": {
                        "kubernetes.io/description": "Contains a CA bundle that can be used to verify the "
                        "kube-apiserver when using internal endpoints such as the internal service IP or "
                        "kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
                        "clusters."
                    },
                },
                "data": data,
            }
            await _create(self._env, "configmaps", wanted, namespace)
        elif current.get("data") != data:
            changed = clone(current)
            changed["data"] = data
            await self._env.client.update("configmaps", changed)
        return None


async def _create(env: Env, resource: str, obj: Obj, namespace: str) -> None:
    """Somebody else was faster, or the namespace is being deleted: both are fine."""
    try:
        await env.client.create(resource, obj, namespace)
    except ApiError as err:
        if not is_already_exists(err) and err.code not in (404, _FORBIDDEN_TERMINATING):
            raise
