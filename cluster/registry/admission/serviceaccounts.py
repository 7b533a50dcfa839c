"""ServiceAccount: every pod runs as one, and gets its token.

IO only through Reads. Source: plugin/pkg/admission/serviceaccount of k8s.io/kubernetes, which draws the name of the
token's volume anew for each pod. Here all pods of an account have the same: what pods of one template have in common
stays equal to the byte, and so is validated, and its fields are found, once for all of them.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from cluster.registry.admission.request import Reads, Request
from cluster.registry.types import Stored

Object = dict[str, Any]

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_MIRROR = "kubernetes.io/config.mirror"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_TOKEN_SECONDS = 3607  # Kubernetes marks tokens that kubelets must rotate by this odd lifetime
_DEFAULT = "default"
_DEFAULT_LOOKS = 10
_DEFAULT_PAUSE_S = 0.15


async def admit(request: Request, reads: Reads) -> None:
    pod = request.obj or {}
    spec = pod["spec"]
    if _MIRROR in (pod["metadata"].get("annotations") or {}):
        if spec.get("serviceAccountName"):
            raise request.forbid("a mirror pod may not reference service accounts")
        return
    name = spec.get("serviceAccountName") or _DEFAULT
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = await _account(request, reads, name)
    if account is None:
        return
    if not spec.get("imagePullSecrets") and account.obj.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account.obj["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken")
    if wanted is None:
        wanted = account.obj.get("automountServiceAccountToken", True)
    if wanted:
        _mount(spec, account.uid)


async def _account(request: Request, reads: Reads, name: str) -> Stored | None:
    """None: there is no namespace or it goes, which the transaction's own guard says better.

    The `default` account is waited for a second or two: a controller makes it, and a namespace and its pods often come
    in one file. Raises ApiError 403.
    """
    for look in range(_DEFAULT_LOOKS if name == _DEFAULT else 1):
        if look:
            await asyncio.sleep(_DEFAULT_PAUSE_S)
        account = await reads.guarded(request.plan, "serviceaccounts", request.namespace, name)
        if account is not None:
            return account
        namespace = await reads.get("namespaces", "", request.namespace)
        if namespace is None or "deletionTimestamp" in namespace.obj["metadata"]:
            return None
    where = f"{request.namespace}/{name}"
    raise request.forbid_unnamed(f'error looking up service account {where}: serviceaccount "{name}" not found')


def _mount(spec: Object, account_uid: str) -> None:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    need = [c for c in containers if all(m.get("mountPath") != MOUNT_PATH for m in c.get("volumeMounts") or ())]
    if not need:
        return
    volume = f"kube-api-access-{_suffix(account_uid)}"
    for v in spec.get("volumes") or ():
        if v.get("name", "").startswith("kube-api-access-"):
            volume = v["name"]
            break
    else:
        spec["volumes"] = [*(spec.get("volumes") or ()), {"name": volume, "projected": _projection()}]
    for c in need:
        mount = {"name": volume, "readOnly": True, "mountPath": MOUNT_PATH}
        c["volumeMounts"] = [*(c.get("volumeMounts") or ()), mount]


def _suffix(uid: str) -> str:
    """Five letters like a generated name's."""
    number, letters = zlib.crc32(uid.encode()), ""
    for _ in range(5):
        number, letter = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[letter]
    return letters


def _projection() -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 0o644,
    }
