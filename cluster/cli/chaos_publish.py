"""A chaos run's report as a ConfigMap, for the web page's timeline. IO: writes through the API.

The newest are kept, in kube-system, under a label that the page watches by. What was offered and answered each second
is left out: it is the bulk of a report, and the page has no use for it.
"""

from __future__ import annotations

import json
import time

from cluster.api.errors import ApiError
from cluster.chaos.report import Report, as_json
from cluster.machinery.http_client import HttpClient, HttpConfig

NAMESPACE = "kube-system"
LABEL = "sk8.io/chaos-report"
KEPT = 10


async def publish(access: HttpConfig, report: Report, now: float) -> str:
    """The name of the ConfigMap. `now` in seconds since the epoch. Raises ApiError."""
    document = json.loads(as_json(report))
    document.pop("series")
    name = f"chaos-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
    async with HttpClient(access) as client:
        made = {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: "true"}},
            "data": {"report.json": json.dumps(document)},
        }
        await client.create("configmaps", made)
        await _forget_old(client)
    return name


async def _forget_old(client: HttpClient) -> None:
    found = await client.list("configmaps", NAMESPACE, label_selector=f"{LABEL}=true")
    for name in sorted(m["metadata"]["name"] for m in found.items)[:-KEPT]:
        try:
            await client.delete("configmaps", name, NAMESPACE)
        except ApiError as e:
            if e.code != 404:
                raise
