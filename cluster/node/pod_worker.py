"""One pod's shell: carries out what its core decides and feeds the results back.

IO through what it is given. Every long action is a task; its result is posted as an event. Events are handled one at a
time, in order, on the loop; an event posted while another is being handled waits its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from prometheus_client import Histogram

from cluster.api.errors import ApiError
from cluster.api.faults import Hit
from cluster.api.tracing import Tracer
from cluster.machinery.client import Client, is_not_found, key_of
from cluster.machinery.events import EventRecorder
from cluster.node import core_events as ev
from cluster.node import probe_metrics
from cluster.node.cni import NetworkFailure
from cluster.node.config import KubeletConfig
from cluster.node.container_start import Place
from cluster.node.container_stop import Stop, exit_info
from cluster.node.core import PodCore
from cluster.node.host_ports import HostPortFailure, port_mappings
from cluster.node.last_resort import LastResort
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.pod_config import cpu_quota_us, cpu_shares, memory_limit_bytes, pod_ref, uts_name
from cluster.node.pod_env import ConfigError
from cluster.node.prober import HookFailure
from cluster.node.runtime import SANDBOX_CONTAINER, Resources, Runtime, RuntimeFailure, SandboxConfig
from cluster.node.runtime_class import HandlerOf
from cluster.node.seams import Network, PodLogs, PodVolumes, Ports, Probing, Starter, Statuses
from cluster.node.traces import StartTrace
from cluster.node.volume_device import VolumeFailure
from cluster.node.volumes import MountedVolumes

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_RETRY_MAX_S = 10.0
_KILL_AGAIN_S = 1.0
_LOOK_S = 5.0
_LOOKS_WHEN_OVER = 10
"""At a container whose end was told: an engine that is slow to say how it ended needs nobody killed past it."""

START_SECONDS = Histogram(
    "kubelet_pod_start_duration_seconds",
    "From a pod being first seen here to all of its containers running",
    buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128),
)


async def no_devices(uid: str) -> None:
    """Of a machine without devices: there is nothing to give back."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all workers of a kubelet share."""

    config: KubeletConfig
    delete_object: Callable[[Obj], Awaitable[bool]]
    """Delete a pod's object with grace 0; True when it is gone and nobody else will say so. Raises ApiError."""
    runtime: Runtime
    network: Network
    host_ports: Ports
    volumes: PodVolumes
    logs: PodLogs
    cgroups: PodCgroups
    handler_of: HandlerOf
    last_resort: LastResort
    starter: Starter
    prober: Probing
    statuses: Statuses
    judge_resize: Callable[[Obj], tuple[str, str]]  # admission.judge_resize beside the machine's other pods
    recorder: EventRecorder
    clock: Callable[[], float]  # the cores' time: runs on evenly when the wall clock is set
    wall: Callable[[], float]
    hit: Hit
    """Fault points, about namespace/name of the pod."""
    free_devices: Callable[[str], Awaitable[None]] = no_devices
    """Repeatable. Raises OSError."""
    tracer: Tracer | None = None


def api_deleter(client: Client) -> Callable[[Obj], Awaitable[bool]]:
    """Of pods of the API: that the object is gone, its watch says."""

    async def delete(pod: Obj) -> bool:
        meta = pod["metadata"]
        try:
            await client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)
        except ApiError as err:
            if not is_not_found(err) and err.code != 409:
                raise
            return True
        return False

    return delete


class PodWorker:
    """`on_forget(uid)` is called when nothing of the pod is left on the machine or in the API."""

    def __init__(self, pod: Obj, tools: Tools, on_forget: Callable[[str], None]) -> None:
        self._tools = tools
        self._on_forget = on_forget
        self.core = PodCore(pod, tools.config.node_ip, tools.clock(), tools.runtime.name, tools.config.node_ipv6)
        self.uid = str(pod["metadata"]["uid"])
        self.released = asyncio.Event()  # its containers have ended and what it stored is gone
        self._volumes: MountedVolumes | None = None
        self._stops: dict[str, Stop] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        adopted = bool((pod.get("status") or {}).get("startTime"))
        self._began_at = None if adopted else tools.clock()
        self._trace = StartTrace(tools.tracer, pod, adopted=adopted)

    @property
    def pod(self) -> Obj:
        return self.core.pod

    # ------------------------------------------------------------ events

    def post(self, event: ev.Event) -> None:
        """Hand an event to the core, and begin what it asks for."""
        if self._closed:
            return
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events and not self._closed:
                now = self._tools.clock()
                for action in self.core.handle(self._events.popleft(), now):
                    _ACTIONS[type(action)](self, action)
        finally:
            self._handling = False
        self._arm()

    def died(self, container_id: str, name: str) -> None:
        """The engine says that a container, or the sandbox, ended."""
        stop = self._stops.get(container_id)
        if stop is not None:
            stop.exited()  # its task looks at the container
        elif name == SANDBOX_CONTAINER:
            self.post(ev.SandboxLost(container_id))
        elif name in self.core.containers:
            self._spawn(self._learn_exit(container_id, name), "exit")

    def close(self) -> list[asyncio.Task[None]]:
        """Stop working on the pod and leave it running; returns the tasks to wait for."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = None if self._closed else self.core.next_wake()
        if wake is not None:
            delay = max(wake - self._tools.clock(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay, self.post, ev.Tick())

    def _spawn(
        self, work: Coroutine[Any, Any, None], name: str, failed: Callable[[str], ev.Event] | None = None
    ) -> None:
        """`failed(message)` is the event for an error that nobody foresaw: the core must not wait for ever."""
        task = asyncio.get_running_loop().create_task(self._guard(work, name, failed), name=f"{name} {self.uid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(
        self, work: Coroutine[Any, Any, None], name: str, failed: Callable[[str], ev.Event] | None
    ) -> None:
        try:
            with self._trace.within():
                await work
        except Exception as err:  # a worker's outermost loop: the other pods must go on
            if failed is not None:
                self.post(failed(f"{type(err).__name__}: {err}"))
            log.exception(
                "%s of pod %s/%s failed", name, self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]
            )

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat until it succeeds, ever more slowly; used for giving things back."""
        delay = 0.2
        while True:
            try:
                await work()
                return
            except (RuntimeFailure, NetworkFailure, HostPortFailure, ApiError, OSError) as err:
                text = err.message if isinstance(err, ApiError) else str(err)
                log.warning("%s of pod %s: %s; trying again in %.1f s", what, self.pod["metadata"]["name"], text, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)

    # ------------------------------------------------------------ volumes and sandbox

    def _mount(self, action: ev.MountVolumes) -> None:
        self._spawn(self._mount_task(), "mount", ev.VolumesFailed)

    async def _mount_task(self) -> None:
        try:
            self._volumes = await self._tools.volumes.mount(self.pod)
        except VolumeFailure as err:
            self.post(ev.VolumesFailed(str(err), err.waiting))
        else:
            self.post(ev.VolumesReady())

    def _start_sandbox(self, action: ev.StartSandbox) -> None:
        self._spawn(self._start_sandbox_task(action.attempt), "sandbox", ev.SandboxFailed)

    async def _start_sandbox_task(self, attempt: int) -> None:
        try:
            await self.apply_cgroup()
            sandbox_id, netns = await self._tools.runtime.run_sandbox(await self._sandbox_config(attempt))
            self._tools.hit("after_sandbox", key_of(self.pod))
            try:
                ip, *ipv6 = await self._connect(sandbox_id, netns)
            except (NetworkFailure, HostPortFailure):
                with contextlib.suppress(NetworkFailure):  # its record stays, for the kubelet's next start
                    await self._tools.network.delete(sandbox_id)
                await self._tools.runtime.remove(sandbox_id)
                raise
        except (RuntimeFailure, NetworkFailure, HostPortFailure, ConfigError, ApiError, OSError) as err:
            self.post(ev.SandboxFailed(err.message if isinstance(err, ApiError) else str(err)))
        else:
            self.post(ev.SandboxReady(sandbox_id, ip, *ipv6))

    async def _sandbox_config(self, attempt: int) -> SandboxConfig:
        spec, config = self.pod["spec"], self._tools.config
        sysctls = (spec.get("securityContext") or {}).get("sysctls") or ()
        return SandboxConfig(
            pod=pod_ref(self.pod),
            attempt=attempt,
            hostname=uts_name(self.pod, config.node_name, config.cluster_domain),
            image=config.pause_image,
            sysctls={s["name"].replace("/", "."): str(s["value"]) for s in sysctls},
            host_network=bool(spec.get("hostNetwork")),
            host_pids=bool(spec.get("hostPID")),
            host_ipc=bool(spec.get("hostIPC")),
            cgroup_parent=self._tools.cgroups.path(self.pod),
            handler=await self._tools.handler_of(self.pod),
        )

    async def apply_cgroup(self) -> None:
        """Raises OSError."""
        await asyncio.to_thread(self._tools.cgroups.apply, self.core.allocated)

    async def _connect(self, sandbox_id: str, netns: str) -> tuple[str, ...]:
        """The pod's addresses: its own, or the machine's."""
        if self.pod["spec"].get("hostNetwork"):
            return self._tools.config.node_ips
        ports, network = port_mappings(self.pod), self._tools.network
        ips = await network.add(sandbox_id, netns, pod_ref(self.pod), ports)
        if not network.maps_ports:
            await self._tools.host_ports.set(sandbox_id, ips, ports)
        return ips

    def _stop_sandbox(self, action: ev.StopSandbox) -> None:
        self._spawn(self._stop_sandbox_task(action.id), "stop sandbox")

    async def _stop_sandbox_task(self, sandbox_id: str) -> None:
        await self._until_done("disconnecting the sandbox", lambda: self._tools.network.delete(sandbox_id))
        await self._until_done("closing the host ports", lambda: self._tools.host_ports.delete(sandbox_id))
        await self._until_done("removing the sandbox", lambda: self._end_and_remove(sandbox_id, SANDBOX_CONTAINER))
        self.post(ev.SandboxStopped())

    def _release(self, action: ev.ReleaseVolumes) -> None:
        self._spawn(self._release_task(), "release volumes")

    async def _release_task(self) -> None:
        await self._until_done("unmounting the volumes", lambda: self._tools.volumes.release(self.uid))
        cgroups = self._tools.cgroups
        await self._until_done("removing the cgroup", lambda: asyncio.to_thread(cgroups.remove, self.uid))
        await self._until_done("giving the devices back", lambda: self._tools.free_devices(self.uid))
        self.released.set()
        self.post(ev.VolumesReleased())

    def _remove(self, action: ev.RemovePod) -> None:
        self._spawn(self._remove_task(), "remove")

    async def _remove_task(self) -> None:
        await self._until_done("removing the containers", self._remove_containers)
        await self._until_done("removing the logs", lambda: asyncio.to_thread(self._tools.logs.remove_pod, self.uid))
        await self._until_done("removing the directory", lambda: self._tools.volumes.remove(self.uid))
        self.post(ev.PodRemoved())

    async def _remove_containers(self) -> None:
        for info in await self._tools.runtime.containers():
            if info.pod.uid == self.uid:
                await self._end_and_remove(info.id, info.name)

    async def _end_and_remove(self, container_id: str, name: str) -> None:
        await self._tools.last_resort.remove(container_id, name, self._emit)

    async def over(self) -> None:
        """Return when the pod has ended on this machine, and the API has been told."""
        await self.released.wait()
        await self._tools.statuses.flush(self.uid)

    async def drop_dead_containers(self) -> None:
        """Remove the containers of a pod that is over; afterwards their logs cannot be asked for."""
        if self.core.mode != "run" and self.core.sandbox.phase == "none":
            await self._remove_containers()

    # ------------------------------------------------------------ containers

    def _start(self, action: ev.StartContainer) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ContainerBlocked(action.name, "CreateContainerError", message)

        self._spawn(self._start_task(action), "start", failed)

    async def _start_task(self, action: ev.StartContainer) -> None:
        if self._volumes is None:
            raise RuntimeError("a container was started before the volumes were mounted")
        state = self.core.containers[action.name]
        place = Place(
            pod=self.core.allocated,
            spec={**state.spec, "resources": state.allocated},
            sandbox_id=self.core.sandbox.id,
            ip=self.core.sandbox.ip,
            second_ip=self.core.sandbox.second_ip,
            directory=self._tools.volumes.pod_dir(self.uid),
            volumes=self._volumes,
            cgroup_parent=self._tools.cgroups.path(self.pod),
            handler=await self._tools.handler_of(self.pod),
            running={c.name: c.id for c in self.core.containers.values() if c.phase == "running"},
        )
        self._tools.hit("before_container", key_of(self.pod))
        outcome = await self._tools.starter.start(action, place, self._emit)
        self._tools.hit("after_container", key_of(self.pod))
        self.post(outcome)
        hook = (state.spec.get("lifecycle") or {}).get("postStart")
        if hook and isinstance(outcome, ev.ContainerStarted):
            await self._post_start(hook, place, outcome)

    async def _post_start(self, hook: Obj, place: Place, started: ev.ContainerStarted) -> None:
        limit = float(self.pod["spec"].get("terminationGracePeriodSeconds") or 30) + 90.0
        try:
            await self._tools.prober.hook(hook, place.spec, started.id, place.ip, limit)
        except HookFailure as err:
            self.post(ev.PostStartFailed(started.name, started.id, f"PostStartHook failed: {err}"))

    def _stop(self, action: ev.StopContainer) -> None:
        running = self._stops.get(action.id)
        if running is not None:
            running.shorten(action.grace_s)
            return
        stop = Stop(self._tools.runtime, self._tools.prober, action.id, action.grace_s)
        self._stops[action.id] = stop
        self._spawn(self._stop_task(action, stop), "stop")

    async def _stop_task(self, action: ev.StopContainer, stop: Stop) -> None:
        spec, ip = self.core.containers[action.name].spec, self.core.sandbox.ip

        def hook_failed(message: str) -> None:
            self._emit("Warning", "FailedPreStopHook", message, action.name)

        try:
            reached = await stop.run(spec, ip, pre_stop=action.pre_stop, hook_failed=hook_failed)
            looks = 0
            while not await self._learn_exit_once(action.id, action.name, _LOOK_S):
                looks += 1
                if reached and (looks > _LOOKS_WHEN_OVER or not stop.over):
                    await self._tools.last_resort.kill(action.id, action.name, self._emit)
                await asyncio.sleep(_KILL_AGAIN_S)
                reached = await stop.kill()
        finally:
            self._stops.pop(action.id, None)

    async def _learn_exit(self, container_id: str, name: str) -> None:
        await self._learn_exit_once(container_id, name)

    async def _learn_exit_once(self, container_id: str, name: str, within_s: float | None = None) -> bool:
        """Look at a container and post its end; False while it runs (or the engine does not say, within that time)."""
        state = self.core.containers[name]
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
        self.post(ev.ContainerExited(name, exited))
        return True

    # ------------------------------------------------------------ resize

    def _check_resize(self, action: ev.CheckResize) -> None:
        reason, message = self._tools.judge_resize(self.pod)
        self.post(ev.ResizeChecked(action.wanted, reason, message))

    def _resize(self, action: ev.ResizeContainer) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ContainerResized(action.name, action.id, action.resources, message)

        self._spawn(self._resize_task(action), "resize", failed)

    async def _resize_task(self, action: ev.ResizeContainer) -> None:
        """The pod's group is widened before its container's, and narrowed after it."""
        error = ""
        spec = {"resources": action.resources}
        changed = Resources(cpu_shares(spec), cpu_quota_us(spec), memory_limit_bytes(spec))
        try:
            with contextlib.suppress(OSError):  # narrower than what is used until the container is narrowed, too
                await self.apply_cgroup()
            await self._tools.runtime.update_resources(action.id, changed)
            await self.apply_cgroup()
        except (RuntimeFailure, OSError) as err:
            error = str(err)
        self.post(ev.ContainerResized(action.name, action.id, action.resources, error))

    def _remove_container(self, action: ev.RemoveContainer) -> None:
        self._spawn(self._until_done("removing an old container", lambda: self._remove_run(action.id)), "remove old")

    async def _remove_run(self, container_id: str) -> None:
        info = await self._tools.runtime.inspect(container_id)
        await self._end_and_remove(container_id, info.name if info is not None else "")
        if info is not None and info.log_path:
            await asyncio.to_thread(self._tools.logs.remove_run, info.log_path, info.pod, info.name, info.id)

    def _probe(self, action: ev.RunProbe) -> None:
        def failed(message: str) -> ev.Event:
            return ev.ProbeDone(action.name, action.id, action.kind, False, message)

        self._spawn(self._probe_task(action), "probe", failed)

    async def _probe_task(self, action: ev.RunProbe) -> None:
        state = self.core.containers[action.name]
        probe = state.probes.states.get(action.kind)
        if probe is None:
            return
        said = await self._tools.prober.probe(
            probe.spec.handler, state.spec, action.id, self.core.sandbox.ip, probe.spec.timeout_s
        )
        probe_metrics.count(self._ref(), action.name, action.kind, said.ok)
        self.post(ev.ProbeDone(action.name, action.id, action.kind, said.ok, said.output, said.warning))

    def _ref(self) -> tuple[str, str, str]:
        ref = pod_ref(self.pod)
        return ref.namespace, ref.name, ref.uid

    # ------------------------------------------------------------ the API

    def _report(self, action: ev.Report) -> None:
        self._tools.statuses.set(self.pod, action.status)
        if self._began_at is not None and action.status["phase"] == "Running":
            START_SECONDS.observe(self._tools.clock() - self._began_at)
            self._began_at = None
            self._trace.end()

    def _delete_object(self, action: ev.DeleteObject) -> None:
        self._spawn(self._delete_task(), "delete")

    async def _delete_task(self) -> None:
        # The last status should be seen; a write that keeps failing must not keep the pod.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._tools.statuses.flush(self.uid)

        async def delete() -> None:
            if await self._tools.delete_object(self.pod):
                self.post(ev.PodGone())

        await self._until_done("deleting the object", delete)

    def _forget(self, action: ev.Forget) -> None:
        self._closed = True
        probe_metrics.forget(self._ref(), list(self.core.containers))
        self._trace.end("the pod ended before it ran")
        self._tools.statuses.forget(self.uid)
        self._on_forget(self.uid)

    def _emit_action(self, action: ev.Emit) -> None:
        self._emit(action.type, action.reason, action.message, action.container)

    def _emit(self, type_: str, reason: str, message: str, container: str = "") -> None:
        meta = self.pod["metadata"]
        reference = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        }
        if container:
            state = self.core.containers.get(container)
            field = "containers" if state is None or state.kind == "main" else "initContainers"
            reference["fieldPath"] = f"spec.{field}{{{container}}}"
        self._tools.recorder.event(reference, type_, reason, message)


_ACTIONS: dict[type, Callable[..., None]] = {
    ev.MountVolumes: PodWorker._mount,
    ev.StartSandbox: PodWorker._start_sandbox,
    ev.StartContainer: PodWorker._start,
    ev.StopContainer: PodWorker._stop,
    ev.RemoveContainer: PodWorker._remove_container,
    ev.RunProbe: PodWorker._probe,
    ev.CheckResize: PodWorker._check_resize,
    ev.ResizeContainer: PodWorker._resize,
    ev.StopSandbox: PodWorker._stop_sandbox,
    ev.ReleaseVolumes: PodWorker._release,
    ev.RemovePod: PodWorker._remove,
    ev.Report: PodWorker._report,
    ev.DeleteObject: PodWorker._delete_object,
    ev.Forget: PodWorker._forget,
    ev.Emit: PodWorker._emit_action,
}
