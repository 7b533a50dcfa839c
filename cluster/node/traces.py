"""What a kubelet shows of a pod's start, under kubelet's names of spans. IO only through the tracer.

    syncPod                                         from the pod being seen to all its containers running
      runtime.v1.RuntimeService/RunPodSandbox       and what else the runtime is asked for meanwhile
      runtime.v1.ImageService/PullImage

Source: kubelet.go (syncPod), and the instrumented client of CRI (cri-client/pkg/remote_runtime.go). The names are the
same when the runtime is Docker, which has other calls for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from cluster.api.tracing import Tracer
from cluster.node.runtime import Runtime

_CALLS = {
    "run_sandbox": "runtime.v1.RuntimeService/RunPodSandbox",
    "create_container": "runtime.v1.RuntimeService/CreateContainer",
    "start_container": "runtime.v1.RuntimeService/StartContainer",
    "remove": "runtime.v1.RuntimeService/RemoveContainer",
    "exec_sync": "runtime.v1.RuntimeService/ExecSync",
    "pull": "runtime.v1.ImageService/PullImage",
    "remove_image": "runtime.v1.ImageService/RemoveImage",
}


def trace_runtime(runtime: Runtime, tracer: Tracer) -> Runtime:
    """The same runtime; from now on its calls are spans."""
    for method, name in _CALLS.items():
        setattr(runtime, method, _spanned(getattr(runtime, method), tracer, name))
    return runtime


def _spanned(call: Callable[..., Awaitable[Any]], tracer: Tracer, name: str) -> Callable[..., Awaitable[Any]]:
    @wraps(call)
    async def spanned(*args: Any, **options: Any) -> Any:
        with tracer.span(name, kind="client"):
            return await call(*args, **options)

    return spanned


class StartTrace:
    """The span of one pod's start; of a pod that was started before (an adopted one) there is none."""

    def __init__(self, tracer: Tracer | None, pod: dict[str, Any], *, adopted: bool) -> None:
        self._tracer = None if adopted else tracer
        if self._tracer is not None:
            meta = pod["metadata"]
            self._span = self._tracer.begin(
                "syncPod",
                attributes={
                    "k8s.pod.uid": str(meta["uid"]),
                    "k8s.pod": f"{meta['namespace']}/{meta['name']}",
                    "k8s.pod.name": str(meta["name"]),
                    "k8s.pod.update_type": "create",
                    "k8s.namespace.name": str(meta["namespace"]),
                },
            )

    def within(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._tracer is None else self._tracer.within(self._span)

    def end(self, error: str = "") -> None:
        """The pod runs, or is given up. What is done for it later is not of its start."""
        if self._tracer is not None:
            self._span.end(error)
            self._tracer = None
