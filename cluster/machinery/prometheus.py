"""Asking a Prometheus server: the current value of an expression, a vector of labelled numbers.

IO: HTTP GET /api/v1/query. A host `<service>.<namespace>.svc` is a Service of the cluster: its cluster IP is asked, as
the control plane's machines need not resolve the cluster's names. Source: Prometheus' documentation, "HTTP API".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import yarl

from cluster.api.bodies import read_at_most
from cluster.api.errors import service_unavailable
from cluster.machinery.service_http import MAX_ANSWER_BYTES, LazySession, Resolve

_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Point:
    """`at`: seconds since the epoch."""

    labels: Mapping[str, str]
    value: float
    at: float


class Prometheus:
    """One per process; its connections belong to the loop that first calls it."""

    def __init__(self, url: str, resolve: Resolve) -> None:
        self._url = yarl.URL(url)
        self._resolve = resolve
        self._session = LazySession()

    async def query(self, expression: str) -> Sequence[Point]:
        """Values that are no numbers are left out. Raises ApiError 503 when it cannot be asked or refuses."""
        where = f"prometheus at {self._url}"
        try:
            async with asyncio.timeout(_ASK_S):
                url = (await self._reached()).joinpath("api/v1/query").with_query(query=expression)
                async with self._session.open().get(url, allow_redirects=False) as response:
                    raw, longer = await read_at_most(response.content.iter_any(), MAX_ANSWER_BYTES)
            answer = orjson.loads(raw)
            if longer or answer["status"] != "success":
                why = "the answer is too large" if longer else answer.get("error")
                raise service_unavailable(f"{where}: {why}")
            return _points(answer["data"])
        except TimeoutError:
            raise service_unavailable(f"{where}: no answer within {_ASK_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as e:
            raise service_unavailable(f"{where}: {e or type(e).__name__}") from e

    async def _reached(self) -> yarl.URL:
        parts = (self._url.host or "").split(".")
        if len(parts) >= 3 and parts[2] == "svc":
            return self._url.with_host(await self._resolve(parts[1], parts[0]))
        return self._url

    async def close(self) -> None:
        await self._session.close()


def _points(data: Any) -> list[Point]:
    if data["resultType"] != "vector":
        raise ValueError(f"the expression gives a {data['resultType']}, not a vector")
    found = []
    for series in data["result"]:
        at, text = series["value"]
        value = float(text)
        if math.isfinite(value):
            labels = {k: v for k, v in series["metric"].items() if k != "__name__"}
            found.append(Point(labels, value, float(at)))
    return found
