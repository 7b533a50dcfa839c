"""The span of a pod's start, and what the runtime is asked for in it."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.node import core_events as ev
from cluster.node.pod_worker import PodWorker
from cluster.node.traces import trace_runtime
from tests.support.recording_tracer import RecordingTracer
from tests.unit.node.test_node_pod_worker import tools


def pod(**status: Any) -> dict[str, Any]:
    meta = {"name": "p", "namespace": "shop", "uid": "u1"}
    return {"metadata": meta, "spec": {"containers": [{"name": "c", "image": "app:1"}]}, "status": status}


async def started(pod: dict[str, Any], tracer: RecordingTracer) -> None:
    """A new pod, worked on until its container runs."""
    kit = tools(tracer=tracer)
    trace_runtime(kit.runtime, tracer)
    worker = PodWorker(pod, kit, lambda uid: None)
    worker.post(ev.Adopt(None))
    async with asyncio.timeout(60):
        while any(state.phase != "running" for state in worker.core.containers.values()):
            await asyncio.sleep(0.01)
    await asyncio.gather(*worker.close(), return_exceptions=True)


async def test_a_pods_start_is_one_span_with_the_runtimes_calls_in_it() -> None:
    tracer = RecordingTracer()
    await started(pod(), tracer)
    sync, *calls = tracer.spans
    assert (sync.name, sync.ended, sync.error) == ("syncPod", True, "")
    assert sync.attributes["k8s.pod"] == "shop/p" and sync.attributes["k8s.pod.update_type"] == "create"
    assert "runtime.v1.RuntimeService/RunPodSandbox" in [call.name for call in calls]
    assert {call.under for call in calls} == {"syncPod"}


async def test_a_pod_that_was_started_before_has_no_span_of_its_start() -> None:
    tracer = RecordingTracer()
    await started(pod(startTime="2026-01-01T00:00:00Z"), tracer)
    assert "syncPod" not in [span.name for span in tracer.spans]
