"""The HorizontalPodAutoscaler controller: asks for metrics every period, and scales to what they say.

A thin shell around `hpa_core`; what a metric proposes is the matter of `hpa_metrics`. Past recommendations and scalings
are kept in memory, as in Kubernetes: a new leader begins with the present size as its only recommendation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339, set_condition
from cluster.api.selectors import LabelSelector, from_label_selector, parse_label_selector
from cluster.controllers import hpa_core as core
from cluster.controllers.env import Env
from cluster.controllers.hpa_metrics import Measured, Metrics, Target, Unable
from cluster.controllers.pod_control import namespace_of
from cluster.machinery.client import Obj, clone, ignore_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_HPAS = "horizontalpodautoscalers.autoscaling"
_MEMORY_S = 3600.0
_ALL_BELOW = "All metrics below target"


@dataclass(slots=True)
class _History:
    recommendations: list[core.Past] = field(default_factory=list)
    scalings: list[core.Past] = field(default_factory=list)

    def trim(self, now: float) -> None:
        self.recommendations = [p for p in self.recommendations if p.at > now - _MEMORY_S]
        self.scalings = [p for p in self.scalings if p.at > now - _MEMORY_S]


class HpaController:
    name = "horizontal_pod_autoscaler"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._hpas = env.informer(_HPAS)
        self._pods = env.informer("pods")
        self._events = env.recorder("horizontal-pod-autoscaler")
        self._metrics = Metrics(env)
        self._history: dict[str, _History] = {}
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_hpa_syncs)
        self._pods.add_index("namespace", namespace_of)
        self._hpas.add_handler(self._on_hpa)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self._history.clear()
        self.reconciler.enqueue_all(self._hpas.items())

    def _on_hpa(self, old: Obj | None, new: Obj | None) -> None:
        """Status writes are our own; the period does the rest."""
        if new is not None and (old is None or old["spec"] != new["spec"]):
            self.reconciler.queue.add(key_of(new))

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        hpa = self._hpas.get(*split_key(key))
        if hpa is None:
            self._history.pop(key, None)
            return None
        now = self._env.clock()
        status = clone(hpa.get("status") or {})
        try:
            await self._scale(key, hpa, status, now)
        except Unable as err:
            self._events.event(hpa, "Warning", err.reason, str(err))
        await self._report(hpa, status)
        return Result(self._env.config.horizontal_pod_autoscaler_sync_period_s)

    async def _scale(self, key: str, hpa: Obj, status: Obj, now: float) -> None:
        resource, target = await self._target(hpa, status, now)
        current = int(target["spec"].get("replicas", 1))
        status["currentReplicas"] = int((target.get("status") or {}).get("replicas") or 0)
        if current == 0:
            why = "scaling is disabled since the replica count of the target is zero"
            _set(status, "ScalingActive", "False", "ScalingDisabled", why, now)
            status["desiredReplicas"] = 0
            return
        history = self._history.setdefault(key, _History([core.Past(now, current)]))
        history.trim(now)
        scaled = self._scaled(hpa["metadata"]["namespace"], target, current, status)
        forced = core.out_of_range(hpa["spec"], current)
        if forced is not None:
            desired, why = forced
        else:
            desired, why = await self._recommended(hpa, scaled, status, history, now)
        status["desiredReplicas"] = desired
        if desired != current:
            await self._rescale(hpa, (resource, target["metadata"]), desired, why, status, now)
            history.scalings.append(core.Past(now, desired - current))

    async def _recommended(
        self, hpa: Obj, target: Target, status: Obj, history: _History, now: float
    ) -> tuple[int, str]:
        """What metrics, windows and limits come to, and why."""
        best = await self._proposal(hpa, target, status, now)
        past = history.recommendations, history.scalings
        found = core.bounded(hpa["spec"], target.current, best.proposal, *past, now, self._metrics.tuning)
        history.recommendations.append(core.Past(now, best.proposal))
        _set(status, "AbleToScale", "True", found.held.name, found.held.text, now)
        _set(status, "ScalingLimited", str(found.limited), found.limit.name, found.limit.text, now)
        return found.desired, f"{best.name} above target" if found.desired > target.current else _ALL_BELOW

    async def _rescale(
        self, hpa: Obj, whom: tuple[str, Obj], desired: int, reason: str, status: Obj, now: float
    ) -> None:
        resource, meta = whom
        body = {"spec": {"replicas": desired}}
        try:
            await self._env.client.patch(resource, meta["name"], body, meta["namespace"], subresource="scale")
        except ApiError as err:
            why = f"the HPA controller was unable to update the target scale: {err.message}"
            _set(status, "AbleToScale", "False", "FailedUpdateScale", why, now)
            text = f"New size: {desired}; reason: {reason}; error: {err.message}"
            raise Unable("FailedRescale", text) from err
        status["lastScaleTime"] = rfc3339(now)
        why = f"the HPA controller was able to update the target scale to {desired}"
        _set(status, "AbleToScale", "True", "SucceededRescale", why, now)
        self._events.event(hpa, "Normal", "SuccessfulRescale", f"New size: {desired}; reason: {reason}")

    async def _target(self, hpa: Obj, status: Obj, now: float) -> tuple[str, Obj]:
        ref, namespace = hpa["spec"]["scaleTargetRef"], hpa["metadata"]["namespace"]
        group, _, version = str(ref.get("apiVersion") or "").rpartition("/")
        info = self._env.resources.for_kind(group, version, ref["kind"])
        why = f'no matches for kind "{ref["kind"]}" in group "{group}"'
        if info is not None and "scale" in info.subresources:
            try:
                found = await self._env.client.get(info.name, ref["name"], namespace)
            except ApiError as err:
                why = err.message
            else:
                text = "the HPA controller was able to get the target's current scale"
                _set(status, "AbleToScale", "True", "SucceededGetScale", text, now)
                return info.name, found if info.custom is None else info.custom.to_scale(found)
        text = f"the HPA controller was unable to get the target's current scale: {why}"
        _set(status, "AbleToScale", "False", "FailedGetScale", text, now)
        raise Unable("FailedGetScale", why)

    # ---- metrics

    async def _proposal(self, hpa: Obj, target: Target, status: Obj, now: float) -> Measured:
        """The largest proposal. One metric that fails does not keep the others from scaling up, only from scaling
        down."""
        measured: list[Measured] = []
        failures: list[Unable] = []
        for metric in hpa["spec"].get("metrics") or ():
            try:
                measured.append(await self._metrics.measure(metric, target, now))
            except Unable as err:
                failures.append(err)
                self._events.event(hpa, "Warning", err.reason, str(err))
        status["currentMetrics"] = [m.shown for m in measured]
        best = max(measured, key=lambda m: m.proposal, default=None)
        if failures and (best is None or best.proposal < target.current):
            first, count = failures[0], f"{len(failures)} invalid out of {len(failures) + len(measured)}"
            text = f"the HPA was unable to compute the replica count: {first}"
            _set(status, "ScalingActive", "False", first.reason, text, now)
            raise Unable("FailedComputeMetricsReplicas", f"invalid metrics ({count}), first error is: {first}")
        if best is None:
            raise Unable("InvalidMetricSourceType", "the autoscaler names no metrics")
        text = f"the HPA was able to successfully calculate a replica count from {best.name}"
        _set(status, "ScalingActive", "True", "ValidMetricFound", text, now)
        return best

    def _scaled(self, namespace: str, found: Obj, current: int, status: Obj) -> Target:
        selector = selector_of(found)
        pods = [
            p
            for p in self._pods.by_index("namespace", namespace)
            if selector.matches(p["metadata"].get("labels") or {})
        ]
        return Target(namespace, selector, pods, current, status["currentReplicas"])

    async def _report(self, hpa: Obj, status: Obj) -> None:
        if status == hpa.get("status"):
            return
        changed = clone(hpa)
        changed["status"] = status
        with ignore_not_found():
            await self._env.client.update(_HPAS, changed, subresource="status")


def selector_of(target: Obj) -> LabelSelector:
    """Of a workload, or of the Scale that a custom resource shows. Raises Unable where it says none: everything would
    be counted."""
    if target.get("kind") != "Scale":
        return from_label_selector(target["spec"].get("selector"))
    text = (target.get("status") or {}).get("selector")
    if not text:
        raise Unable("InvalidSelector", "the HPA target's scale is missing a selector")
    return parse_label_selector(text)


def _set(status: Obj, type_: str, value: str, reason: str, message: str, now: float) -> None:
    new = {"type": type_, "status": value, "reason": reason, "message": message}
    set_condition(status.setdefault("conditions", []), new, now)
