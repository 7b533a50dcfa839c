"""What pods use, asked of their kubelets: the autoscaler's source of metrics.

IO: GET /stats/summary at the addresses in the pods' status, with a client certificate the kubelets accept. An answer is
shared for some seconds, so that many autoscalers cost one request per machine.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from cluster.api import resource_metrics as forms
from cluster.api.errors import service_unavailable
from cluster.api.meta import parse_time
from cluster.machinery.pod_metrics import PodUsage

Obj = dict[str, Any]
_KEEP_S = 5.0
_ASK_S = 5.0
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class KubeletAccess:
    port: int
    ca_file: str
    cert_file: str
    key_file: str


class KubeletPodMetrics:
    """Fulfils PodMetrics. Belongs to the loop it is first used on; `close()` it there."""

    def __init__(self, access: KubeletAccess) -> None:
        self._access = access
        self._http: aiohttp.ClientSession | None = None
        self._asked: dict[str, tuple[float, asyncio.Task[Obj | str]]] = {}

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def of_pods(self, namespace: str, pods: Sequence[Obj]) -> Mapping[str, PodUsage]:
        hosts = sorted({str((p.get("status") or {}).get("hostIP") or "") for p in pods} - {""})
        answers = await asyncio.gather(*(asyncio.shield(self._summary(host)) for host in hosts))
        summaries = [a for a in answers if not isinstance(a, str)]
        if hosts and not summaries:
            raise service_unavailable(f"no kubelet answers: {answers[0]}")
        return {
            pod.name: _usage(pod)
            for summary in summaries
            for pod in forms.pods_of(summary)
            if pod.namespace == namespace
        }

    def _summary(self, host: str) -> asyncio.Task[Obj | str]:
        loop = asyncio.get_running_loop()
        for old in [h for h, (at, task) in self._asked.items() if loop.time() - at > _KEEP_S and task.done()]:
            del self._asked[old]
        kept = self._asked.get(host)
        if kept is None:
            kept = self._asked[host] = (loop.time(), loop.create_task(self._ask(host)))
        return kept[1]

    async def _ask(self, host: str) -> Obj | str:
        """The summary, or why there is none."""
        url = f"https://{f'[{host}]' if ':' in host else host}:{self._access.port}/stats/summary"
        try:
            async with self._session().get(url) as response:
                body = await response.read()
                if response.status != 200:
                    return f"the kubelet at {host} answered {response.status}"
                answer: Obj = orjson.loads(body)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            return f"the kubelet at {host}: {err or type(err).__name__}"

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            context = ssl.create_default_context(cafile=self._access.ca_file)
            context.load_cert_chain(self._access.cert_file, self._access.key_file)
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=_AT_ONCE),
                timeout=aiohttp.ClientTimeout(total=_ASK_S),
            )
        return self._http


def _usage(pod: forms.PodUsed) -> PodUsage:
    return PodUsage(
        at=min(parse_time(u.at) for u in pod.containers.values()),
        window_s=forms.WINDOW_S,
        usage={
            name: {"cpu": round(u.cpu_nanocores / 1e6), "memory": u.memory_bytes} for name, u in pod.containers.items()
        },
    )
