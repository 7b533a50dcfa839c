"""A cluster of VMs: the CA lives on its control planes, as with kubeadm. IO (the CA's key, read for each signature)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.machine.config import ClusterConfig
from cluster.machine.identity import Authority
from cluster.machine.pki import PkiError
from cluster.machinery.provider import ProviderError


class OwnAuthority:
    """Fulfils CertificateIssuer with the key on this machine."""

    def __init__(self, config: ClusterConfig) -> None:
        self._authority = Authority(config)

    async def issue(self, signer: str, request_pem: str, usages: Sequence[str], lifetime_s: float) -> str:
        try:
            signed = await asyncio.to_thread(self._authority.sign, signer, request_pem.encode(), usages, lifetime_s)
        except PkiError as e:
            raise ProviderError(str(e), retriable=False) from e
        except OSError as e:
            raise ProviderError(f"the CA's key cannot be read: {e}") from e
        return signed.decode()
