"""Bootstrap tokens' two controllers: expired ones are deleted, and those that may sign sign kube-public/cluster-info.

Level-based; sources: k8s.io/kubernetes pkg/controller/bootstrap (tokencleaner.go, bootstrapsigner.go). A cluster
without that ConfigMap (it is kubeadm that makes one) has nothing to be signed.
"""

from __future__ import annotations

from cluster.api import bootstrap_tokens as tokens
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_INFO_NAMESPACE, _INFO = "kube-public", "cluster-info"
_INFO_KEY = f"{_INFO_NAMESPACE}/{_INFO}"
_SIGNATURE = "jws-kubeconfig-"


def is_token(secret: Obj) -> bool:
    return secret["metadata"].get("namespace") == tokens.NAMESPACE and secret.get("type") == tokens.SECRET_TYPE


class TokenCleaner:
    name = "tokencleaner"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._secrets = env.informer("secrets")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._secrets.add_handler(self._on_secret)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for secret in self._secrets.items():
            self._on_secret(None, secret)

    def _on_secret(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and is_token(new):
            self.reconciler.queue.add(key_of(new))

    async def _reconcile(self, key: str) -> Result | None:
        secret = self._secrets.get(*split_key(key))
        until = tokens.expires_at(tokens.decoded(secret)) if secret is not None and is_token(secret) else None
        if secret is None or until is None:
            return None
        wait_s = until - self._env.clock()
        if wait_s > 0:
            return Result(wait_s)
        meta = secret["metadata"]
        with ignore_not_found():
            await self._env.client.delete("secrets", meta["name"], meta["namespace"], uid=meta["uid"])
        return None


class BootstrapSigner:
    name = "bootstrapsigner"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._secrets = env.informer("secrets")
        self._maps = env.informer("configmaps")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._secrets.add_handler(self._on_secret)
        self._maps.add_handler(self._on_map)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.queue.add(_INFO_KEY)

    def _on_secret(self, old: Obj | None, new: Obj | None) -> None:
        if any(s is not None and is_token(s) for s in (old, new)):
            self.resync()

    def _on_map(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and key_of(new) == _INFO_KEY:
            self.resync()

    async def _reconcile(self, key: str) -> Result | None:
        info = self._maps.get(_INFO_NAMESPACE, _INFO)
        if info is None or "kubeconfig" not in (info.get("data") or {}):
            return None
        now = self._env.clock()
        signing = [(s, token) for s in self._secrets.items() if is_token(s) and (token := tokens.signing_token(s, now))]
        content = info["data"]["kubeconfig"]
        data = {k: v for k, v in info["data"].items() if not k.startswith(_SIGNATURE)}
        data |= {_SIGNATURE + name: tokens.detached_jws(content, name, secret) for _, (name, secret) in signing}
        if data != info["data"]:
            changed = clone(info)
            changed["data"] = data
            await self._env.client.update("configmaps", changed)
        ends = [end for s, _ in signing if (end := tokens.expires_at(tokens.decoded(s))) is not None]
        return Result(min(ends) - now) if ends else None
