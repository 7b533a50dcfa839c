"""The serviceaccount-token controller: fills Secrets of type kubernetes.io/service-account-token, and ends them.

Level-based; source: kubernetes pkg/controller/serviceaccount/tokens_controller.go. Nobody gets such a Secret by
himself any more (KEP-2799): who makes one, naming an account in its annotation, gets a token in it that does not
expire, and that is refused once the Secret or the account is gone. A Secret whose account is not there is deleted.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cluster.api.errors import ApiError
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found, is_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_TYPE = "kubernetes.io/service-account-token"
_NAME = "kubernetes.io/service-account.name"
_UID = "kubernetes.io/service-account.uid"


class ServiceAccountTokenController:
    name = "serviceaccount-token"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._secrets = env.informer("secrets")
        self._accounts = env.informer("serviceaccounts")
        self._ca = Path(env.config.root_ca_file).read_bytes() if env.config.root_ca_file else b""
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_serviceaccount_syncs)
        self._secrets.add_index("service-account", _account_key)
        self._secrets.add_handler(self._on_secret)
        self._accounts.add_handler(self._on_account)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for secret in self._secrets.items():
            self._on_secret(None, secret)

    def _on_secret(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and _account_key(new):
            self.reconciler.queue.add(key_of(new))

    def _on_account(self, old: Obj | None, new: Obj | None) -> None:
        account = new or old
        for secret in self._secrets.by_index("service-account", key_of(account)) if account is not None else ():
            self.reconciler.queue.add(key_of(secret))

    async def _reconcile(self, key: str) -> Result | None:
        secret = self._secrets.get(*split_key(key))
        if secret is None or self._env.outside.tokens is None or not _account_key(secret):
            return None
        if "deletionTimestamp" in secret["metadata"]:
            return None
        account = await self._account(secret)
        if account is None:
            await self._delete(secret)
            return None
        filled = self._filled(secret, account)
        if filled != secret:
            await self._env.client.update("secrets", filled)
        return None

    async def _account(self, secret: Obj) -> Obj | None:
        """The account the Secret is for; the API is asked before one is given up, since caches are not in step."""
        meta = secret["metadata"]
        name, uid = meta["annotations"][_NAME], meta["annotations"].get(_UID)
        account = self._accounts.get(meta["namespace"], name)
        if account is None or uid not in (None, account["metadata"]["uid"]):
            try:
                account = await self._env.client.get("serviceaccounts", name, meta["namespace"])
            except ApiError as err:
                if is_not_found(err):
                    return None
                raise
        return account if uid in (None, account["metadata"]["uid"]) else None

    def _filled(self, secret: Obj, account: Obj) -> Obj:
        meta = secret["metadata"]
        filled = clone(secret)
        filled["metadata"]["annotations"][_UID] = account["metadata"]["uid"]
        data = filled.setdefault("data", {})
        data["namespace"] = _b64(meta["namespace"].encode())
        if self._ca:
            data["ca.crt"] = _b64(self._ca)
        if not data.get("token") and self._env.outside.tokens is not None:
            owner = account["metadata"]
            token = self._env.outside.tokens.sign_secret(owner["namespace"], owner["name"], owner["uid"], meta["name"])
            data["token"] = _b64(token.encode())
        return filled

    async def _delete(self, secret: Obj) -> None:
        meta = secret["metadata"]
        with ignore_not_found():
            await self._env.client.delete("secrets", meta["name"], meta["namespace"], uid=meta["uid"])


def _account_key(secret: Obj) -> list[str]:
    """Index: the account a token Secret is for."""
    name = (secret["metadata"].get("annotations") or {}).get(_NAME)
    return [f"{secret['metadata']['namespace']}/{name}"] if secret.get("type") == _TYPE and name else []


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
