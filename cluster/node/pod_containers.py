"""A pod's containers, carried out: started, stopped, looked at when they end, resized, probed, removed.

IO through the kubelet's tools. At most one task stops a container; asked again, it stops sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cluster.machinery.client import key_of
from cluster.node import core_events as ev
from cluster.node import probe_metrics
from cluster.node.container_start import Place
from cluster.node.container_stop import Stop, exit_info
from cluster.node.pod_config import cpu_quota_us, cpu_shares, memory_limit_bytes
from cluster.node.pod_sandbox import PodSandbox
from cluster.node.pod_shell import PodShell
from cluster.node.pod_tools import Obj
from cluster.node.prober import HookFailure
from cluster.node.runtime import Resources, RuntimeFailure

log = logging.getLogger(__name__)
_KILL_AGAIN_S = 1.0
_HOOK_EXTRA_S = 90.0
"""A postStart hook may take longer than its pod may to end, which is all that the pod says of such times."""
_LOOK_S = 5.0
_LOOKS_WHEN_OVER = 10
"""At a container whose end was told: an engine that is slow to say how it ended needs nobody killed past it."""


class PodContainers:
    def __init__(self, shell: PodShell, sandbox: PodSandbox) -> None:
        self._shell = shell
        self._tools = shell.tools
        self._sandbox = sandbox
        self._stops: dict[str, Stop] = {}

    def died(self, container_id: str, name: str) -> None:
        """The engine says that one of them ended."""
        stop = self._stops.get(container_id)
        if stop is not None:
            stop.exited()  # its task looks at the container
        elif name in self._shell.core.containers:
            self._shell.spawn(self._learn_exit(container_id, name), "exit")

    def start(self, action: ev.StartContainer) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ContainerBlocked(action.name, "CreateContainerError", message)

        self._shell.spawn(self._start_task(action), "start", failed)

    async def _start_task(self, action: ev.StartContainer) -> None:
        if self._sandbox.volumes is None:
            raise RuntimeError("a container was started before the volumes were mounted")
        state = self._shell.core.containers[action.name]
        place = Place(
            pod=self._shell.core.allocated,
            spec={**state.spec, "resources": state.allocated},
            sandbox_id=self._shell.core.sandbox.id,
            ip=self._shell.core.sandbox.ip,
            second_ip=self._shell.core.sandbox.second_ip,
            directory=self._tools.volumes.pod_dir(self._shell.uid),
            volumes=self._sandbox.volumes,
            cgroup_parent=self._tools.cgroups.path(self._shell.pod),
            handler=await self._tools.handler_of(self._shell.pod),
            running={c.name: c.id for c in self._shell.core.containers.values() if c.phase == "running"},
        )
        self._tools.hit("before_container", key_of(self._shell.pod))
        outcome = await self._tools.starter.start(action, place, self._shell.emit)
        self._tools.hit("after_container", key_of(self._shell.pod))
        self._shell.post(outcome)
        hook = (state.spec.get("lifecycle") or {}).get("postStart")
        if hook and isinstance(outcome, ev.ContainerStarted):
            await self._post_start(hook, place, outcome)

    async def _post_start(self, hook: Obj, place: Place, started: ev.ContainerStarted) -> None:
        limit = float(self._shell.pod["spec"].get("terminationGracePeriodSeconds") or 30) + _HOOK_EXTRA_S
        try:
            await self._tools.prober.hook(hook, place.spec, started.id, place.ip, limit)
        except HookFailure as err:
            self._shell.post(ev.PostStartFailed(started.name, started.id, f"PostStartHook failed: {err}"))

    def stop(self, action: ev.StopContainer) -> None:
        running = self._stops.get(action.id)
        if running is not None:
            running.shorten(action.grace_s)
            return
        stop = Stop(self._tools.runtime, self._tools.prober, action.id, action.grace_s)
        self._stops[action.id] = stop
        self._shell.spawn(self._stop_task(action, stop), "stop")

    async def _stop_task(self, action: ev.StopContainer, stop: Stop) -> None:
        spec, ip = self._shell.core.containers[action.name].spec, self._shell.core.sandbox.ip

        def hook_failed(message: str) -> None:
            self._shell.emit("Warning", "FailedPreStopHook", message, action.name)

        try:
            reached = await stop.run(spec, ip, pre_stop=action.pre_stop, hook_failed=hook_failed)
            looks = 0
            while not await self._learn_exit(action.id, action.name, _LOOK_S):
                looks += 1
                if reached and (looks > _LOOKS_WHEN_OVER or not stop.over):
                    await self._tools.last_resort.kill(action.id, action.name, self._shell.emit)
                await asyncio.sleep(_KILL_AGAIN_S)
                reached = await stop.kill()
        finally:
            self._stops.pop(action.id, None)

    async def _learn_exit(self, container_id: str, name: str, within_s: float | None = None) -> bool:
        """Look at a container and post its end; False while it runs (or the engine does not say, within that time)."""
        state = self._shell.core.containers[name]
        if state.phase == "exited" and state.exit is not None and state.exit.id == container_id:
            return True
        try:
            async with asyncio.timeout(within_s):
                info = await self._tools.runtime.inspect(container_id)
        except (RuntimeFailure, TimeoutError) as err:
            log.warning("looking at container %s: %s", container_id[:12], str(err) or "no answer")
            return False
        if info is not None and info.state == "running":
            return False
        exited = await exit_info(self._tools.runtime, info, container_id, self._tools.wall())
        self._shell.post(ev.ContainerExited(name, exited))
        return True

    # ------------------------------------------------------------ resize

    def check_resize(self, action: ev.CheckResize) -> None:
        reason, message = self._tools.judge_resize(self._shell.pod)
        self._shell.post(ev.ResizeChecked(action.wanted, reason, message))

    def resize(self, action: ev.ResizeContainer) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ContainerResized(action.name, action.id, action.resources, message)

        self._shell.spawn(self._resize_task(action), "resize", failed)

    async def _resize_task(self, action: ev.ResizeContainer) -> None:
        """The pod's group is widened before its container's, and narrowed after it."""
        error = ""
        spec = {"resources": action.resources}
        changed = Resources(cpu_shares(spec), cpu_quota_us(spec), memory_limit_bytes(spec))
        try:
            with contextlib.suppress(OSError):  # narrower than what is used until the container is narrowed, too
                await self._sandbox.apply_cgroup()
            await self._tools.runtime.update_resources(action.id, changed)
            await self._sandbox.apply_cgroup()
        except (RuntimeFailure, OSError) as err:
            error = str(err)
        self._shell.post(ev.ContainerResized(action.name, action.id, action.resources, error))

    def remove(self, action: ev.RemoveContainer) -> None:
        self._shell.spawn(
            self._shell.until_done("removing an old container", lambda: self._remove_run(action.id)), "remove old"
        )

    async def _remove_run(self, container_id: str) -> None:
        info = await self._tools.runtime.inspect(container_id)
        await self._shell.end_and_remove(container_id, info.name if info is not None else "")
        if info is not None and info.log_path:
            await asyncio.to_thread(self._tools.logs.remove_run, info.log_path, info.pod, info.name, info.id)

    def probe(self, action: ev.RunProbe) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ProbeDone(action.name, action.id, action.kind, False, message)

        self._shell.spawn(self._probe_task(action), "probe", failed)

    async def _probe_task(self, action: ev.RunProbe) -> None:
        state = self._shell.core.containers[action.name]
        probe = state.probes.states.get(action.kind)
        if probe is None:
            return
        said = await self._tools.prober.probe(
            probe.spec.handler, state.spec, action.id, self._shell.core.sandbox.ip, probe.spec.timeout_s
        )
        probe_metrics.count(self._shell.ref(), action.name, action.kind, said.ok)
        self._shell.post(ev.ProbeDone(action.name, action.id, action.kind, said.ok, said.output, said.warning))
