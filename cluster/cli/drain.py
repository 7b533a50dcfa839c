"""A node cordoned, drained and uncordoned through the API, as kubectl does it, in its words. IO (the API; a clock).

    cordon -> list its pods -> judge (drain_plan.py) -> evict each (refused by a budget: again) -> wait until it is gone

Nothing is evicted when one pod forbids it. Raises ApiError where kubectl would end with one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api.errors import ApiError
from cluster.cli import drain_plan
from cluster.cli.drain_plan import Flags, Pod, Verdict
from cluster.machinery.http_client import HttpClient

Tell = Callable[[str], None]
_AGAIN_S = 5.0
_LOOK_S = 1.0
_STRATEGIC = "application/strategic-merge-patch+json"


class DrainError(Exception):
    """Why a node was not drained: one or several reasons, as kubectl joins them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = list(dict.fromkeys(reasons))
        super().__init__(self.reasons[0] if len(self.reasons) == 1 else f"[{', '.join(self.reasons)}]")


@dataclass(slots=True)
class Drainer:
    """`tell` gets what was done, `complain` warnings and what is tried again."""

    client: HttpClient
    flags: Flags
    tell: Tell
    complain: Tell
    clock: Callable[[], float] = time.time
    _deadline: float = field(default=float("inf"), init=False)

    async def nodes(self, names: Sequence[str], selector: str) -> list[dict[str, Any]]:
        """All of them, before anything is done to one."""
        if selector:
            return list(
                (await self.client.list("nodes", label_selector=selector, chunk_size=self.flags.chunk_size)).items
            )
        return [await self.client.get("nodes", name) for name in names]

    async def cordon(self, node: Pod, *, wanted: bool) -> None:
        """`spec.unschedulable` as wanted. A refusal is told and nothing more: a drain goes on all the same."""
        name, done = node["metadata"]["name"], "cordoned" if wanted else "uncordoned"
        if bool(node["spec"].get("unschedulable")) == wanted:
            self.tell(f"node/{name} already {done}{self.flags.suffix}")
            return
        try:
            if self.flags.dry_run != "client":
                patch = {"spec": {"unschedulable": wanted or None}}
                params = {"dryRun": "All"} if self.flags.dry_run == "server" else {}
                path = f"/api/v1/nodes/{name}"
                await self.client.request("PATCH", path, params=params, body=patch, media_type=_STRATEGIC)
        except ApiError as e:
            self.complain(f'error: unable to {done[:-2]} node "{name}": {e.message}')
            return
        self.tell(f"node/{name} {done}{self.flags.suffix}")

    async def drain(self, name: str) -> None:
        """Raises DrainError."""
        verdicts = await self._judged(name)
        if warnings := drain_plan.warnings(verdicts):
            self.complain(f"Warning: {warnings}")
        pods = [v.pod for v in verdicts if v.takes]
        if self.flags.dry_run == "client":
            for pod in pods:
                self.tell(f"evicting pod {_full(pod)}{self.flags.suffix}")
            return
        self._deadline = self.clock() + self.flags.timeout_s if self.flags.timeout_s else float("inf")
        try:
            await (self._delete(pods) if self.flags.disable_eviction else self._evict(pods))
        except DrainError as e:
            await self._tell_pending(name, e)
            raise

    async def _judged(self, node: str) -> list[Verdict]:
        """Raises DrainError when one of its pods forbids the drain."""
        verdicts = await self._verdicts(node)
        if found := drain_plan.errors(verdicts):
            raise DrainError(found)
        return verdicts

    async def _verdicts(self, node: str) -> list[Verdict]:
        selectors = {"field_selector": f"spec.nodeName={node}", "label_selector": self.flags.pod_selector}
        pods = (await self.client.list("pods", chunk_size=self.flags.chunk_size, **selectors)).items
        wanted = {(p["metadata"]["namespace"], name) for p in pods if (name := drain_plan.daemon_set_of(p))}
        missing = {key: await self._missing(*key) for key in sorted(wanted)}
        return [drain_plan.judge(p, self.flags, self.clock(), missing.get(_daemon_set_key(p))) for p in pods]

    async def _missing(self, namespace: str, name: str) -> ApiError | None:
        try:
            await self.client.get("daemonsets.apps", name, namespace)
        except ApiError as e:
            return e
        return None

    async def _tell_pending(self, node: str, error: DrainError) -> None:
        """What is still to be moved, as far as the API says it."""
        try:
            verdicts = await self._verdicts(node)
        except ApiError as e:
            self.complain(f"Following errors occurred while getting the list of pods to delete:\n{e.message}")
            return
        pending = [v.pod for v in verdicts if v.takes]
        if pending:
            self.complain(f'There are pending pods in node "{node}" when an error occurred: {error}')
        for pod in pending:
            self.complain(f"pod/{pod['metadata']['name']}")
        if found := drain_plan.errors(verdicts):
            self.complain(f"Following errors occurred while getting the list of pods to delete:\n{DrainError(found)}")

    # -- one pod ---------------------------------------------------------------------------------------------------
    async def _evict(self, pods: Sequence[Pod]) -> None:
        """All at once; each tries again for itself while a budget refuses."""
        whys = await asyncio.gather(*map(self._evict_one, pods))
        if reasons := [why for why in whys if why]:
            raise DrainError(reasons)

    async def _evict_one(self, pod: Pod) -> str:
        """Why it failed, or nothing once the pod is gone."""
        meta = pod["metadata"]
        named = f'pods/"{meta["name"]}" -n "{meta["namespace"]}"'
        while True:
            self.tell(f"evicting pod {_full(pod)}{self.flags.suffix}")
            if self.clock() > self._deadline:
                return f"error when evicting {named}: {self._too_late()}"
            try:
                body = {"metadata": {"name": meta["name"]}, "deleteOptions": self._options()}
                await self.client.create("pods", body, meta["namespace"], subresource="eviction", name=meta["name"])
                break
            except ApiError as e:
                if e.code == 404:
                    return ""
                ending = e.code == 403 and _namespace_ends(e)
                if ending and meta.get("deletionTimestamp"):
                    break  # nobody needs to evict it any more
                if e.code != 429 and not ending:
                    return f"error when evicting {named}: {e.message}"
                self.complain(f"error when evicting {named} (will retry after 5s): {e.message}")
            await asyncio.sleep(max(0.0, min(_AGAIN_S, self._deadline - self.clock() + 0.001)))
            pod = await self._fresh(pod)
            meta = pod["metadata"]
        if self.flags.dry_run == "server":
            return ""
        why = await self._gone([pod], "evicted")
        where = f'"{meta["name"]}" in namespace "{meta["namespace"]}"'
        return f"error when waiting for pod {where} to terminate: {why}" if why else ""

    async def _delete(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            meta = pod["metadata"]
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            try:
                await self.client.request("DELETE", path, body=self._options())
            except ApiError as e:
                if e.code != 404:
                    raise DrainError([e.message]) from e
        if self.flags.dry_run != "server" and (why := await self._gone(pods, "deleted")):
            raise DrainError([why])

    async def _gone(self, pods: Sequence[Pod], done: str) -> str:
        """Looks each second; a pod of the same name with another uid is another pod. Why it failed, or nothing."""
        left = list(pods)
        while True:
            try:
                left = [pod for pod in left if not await self._is_gone(pod, done)]
            except ApiError as e:
                return e.message
            if not left:
                return ""
            if self.clock() > self._deadline:
                return self._too_late()
            await asyncio.sleep(_LOOK_S)

    async def _is_gone(self, pod: Pod, done: str) -> bool:
        meta = pod["metadata"]
        try:
            now = await self.client.get("pods", meta["name"], meta["namespace"])
        except ApiError as e:
            if e.code != 404:
                raise
            now = None
        if now is None or now["metadata"]["uid"] != meta["uid"]:
            self.tell(f"pod/{meta['name']} {done}")
            return True
        if drain_plan.long_deleted(now, self.flags.skip_wait_s, self.clock()):
            self.tell(
                f'pod "{meta["name"]}" has DeletionTimestamp older than {self.flags.skip_wait_s} seconds, skipping'
            )
            return True
        return False

    async def _fresh(self, pod: Pod) -> Pod:
        """As it is now; as it was when nobody says."""
        try:
            return await self.client.get("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])
        except ApiError:
            return pod

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if self.flags.grace_period_s >= 0:
            options["gracePeriodSeconds"] = self.flags.grace_period_s
        if self.flags.dry_run == "server":
            options["dryRun"] = ["All"]
        return options

    def _too_late(self) -> str:
        return f"global timeout reached: {drain_plan.go_duration(self.flags.timeout_s)}"


def _full(pod: Pod) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _daemon_set_key(pod: Pod) -> tuple[str, str]:
    return pod["metadata"]["namespace"], drain_plan.daemon_set_of(pod)


def _namespace_ends(error: ApiError) -> bool:
    return any(cause.get("reason") == "NamespaceTerminating" for cause in (error.details or {}).get("causes") or ())
