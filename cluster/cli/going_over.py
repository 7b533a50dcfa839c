"""One machine's way to another release (`sk8 upgrade`) or to other settings (`sk8 configure`). The decisions are pure
and come first.

IO: the machine's disk (`release.json`), its sk8-machine, the host agent, the API, the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from cluster.cli.output import CommandError
from cluster.cli.status import is_healthy, look
from cluster.cloud.local import LocalProvider
from cluster.machine import rejoin, release
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machine.rejoin import HeadStatus
from cluster.machine.release import NoRelease, Release
from cluster.machinery.provider import MachineState, ProviderError

_POLL_S = 1.0
_HANGS_S = 120.0
"""So long sk8-machine may take from SIGHUP to its next life, Ray's end included, before its machine's power is cut."""


class Failed(Exception):
    """What the machine did instead of running that release."""


def same(one: Release | None, other: Release | None) -> bool:
    """By directory: how its Python is called there makes no other release."""
    return str(one) == str(other)


def previous(target: Release, ran: Release | None, chosen: Release | None, before: Release | None) -> Release | None:
    """What a rollback from `target` is to lead to. `ran`: what the machine says it runs; `chosen` and `before`: what
    its disk says. Who goes on with an upgrade that was interrupted keeps the release from before it."""
    candidates = (before, ran) if same(chosen, target) else (ran, chosen, before)
    return next((one for one in candidates if one is not None and not same(one, target)), None)


def is_there(ran: Release | None, chosen: Release | None, target: Release) -> bool:
    """Whether it runs `target` and will do so after its next start, too."""
    return same(ran, target) and (chosen is None or same(chosen, target))


def begun(now: HeadStatus, life: str, target: Release | None) -> bool:
    """Whether sk8-machine has begun anew since it was of `life`, with `target`; None: with whatever its disk names."""
    return bool(now.life) and now.life != life and (target is None or now.release == str(target))


class GoingOver:
    def __init__(self, config: ClusterConfig, machine: MachineConfig, timeout_s: float) -> None:
        self.machine = machine
        self._config = config
        self._timeout_s = timeout_s
        self._provider = LocalProvider(config.host_socket)

    async def runs(self) -> Release | None:
        """What the machine runs, as it says itself; None when it says nothing. Raises CommandError."""
        reported = (await self._status()).release
        if not reported:
            return None
        for known in (release.chosen(self.machine), release.before(self.machine), release.running()):
            if known is not None and str(known) == reported:
                return known
        try:
            return release.in_directory(Path(reported))
        except NoRelease as e:
            raise CommandError(
                f"{self.machine.name} runs what it could not go back to: {e}",
                "put that release back where it was",
            ) from e

    async def go(self, target: Release, before: Release | None, *, by_force: bool = False) -> None:
        """Returns when the whole cluster is healthy with `target` there. `before`: what a rollback then leads to.
        `by_force`: also when sk8-machine is gone or deaf; that costs the machine its pods. Raises Failed."""
        life = (await self._status()).life
        release.choose(self.machine, target, before)
        try:
            if by_force:
                await self._begin_by_force(target, life)
            else:
                await self._provider.restart_agent(self.machine.name)
        except ProviderError as e:
            raise Failed(f"did not begin anew with {target} ({e.message})") from e

        await self._until_healthy(life, target, f"was not healthy with {target}")

    async def settings(self) -> str | None:
        """The digest of those it began with, "" when it does not say; None of a machine that is off: it will begin with
        those that are written down."""
        power = await self._power()
        if power == "off":
            return None
        try:
            return (await self._heard()).settings if power == "running" else ""
        except Failed:
            return ""

    async def again(self) -> None:
        """From its beginning; returns when the whole cluster is healthy. Raises Failed; when it does not even say that
        it lives, before it is told anything: it could not be seen to begin anew."""
        life = (await self._heard()).life
        try:
            await self._provider.restart_agent(self.machine.name)
        except ProviderError as e:
            raise Failed(f"did not begin anew ({e.message})") from e
        await self._until_healthy(life, None, "was not healthy")

    async def again_by_force(self, besides: Collection[str]) -> None:
        """As `again`, also of a machine that is off or deaf, which costs it its pods. `besides`: machines whose health
        is not waited for. Raises Failed."""
        try:
            life = (await self._heard()).life
        except Failed:
            life = ""
        try:
            if life:
                await self._begin_by_force(None, life)
            else:
                await self._boot()
        except ProviderError as e:
            raise Failed(f"did not begin anew ({e.message})") from e
        await self._until_healthy(life, None, "was not healthy", besides)

    async def _heard(self) -> HeadStatus:
        """What sk8-machine says, however busy it is. Raises Failed."""
        heard = HeadStatus("", False)

        async def answers() -> bool:
            nonlocal heard
            heard = await self._status()
            return bool(heard.life)

        await self._until(answers, _HANGS_S, "did not say how it is")
        return heard

    async def _until_healthy(
        self, life: str, target: Release | None, otherwise: str, besides: Collection[str] = ()
    ) -> None:
        """Raises Failed."""

        async def healthy() -> bool:
            now = await self._status()
            return begun(now, life, target) and now.ensured and await self._cluster_is_healthy(besides)

        await self._until(healthy, self._timeout_s, otherwise)

    async def _begin_by_force(self, target: Release | None, life: str) -> None:
        """A first process that does not take SIGHUP is cut off: the machine boots with what its disk names."""

        async def anew() -> bool:
            return begun(await self._status(), life, target)

        name = self.machine.name
        try:
            await self._provider.restart_agent(name)
            await self._until(anew, _HANGS_S, "did not begin anew")
        except (ProviderError, Failed):
            await self._boot()

    async def _boot(self) -> None:
        await self._provider.kill(self.machine.name)  # also of one that is off: it waits for the end of what goes on
        await self._provider.start(self.machine.name)

    async def _until(self, holds: Callable[[], Awaitable[bool]], patience_s: float, otherwise: str) -> None:
        """Raises Failed: after `patience_s`, and at once when the machine is off."""
        try:
            async with asyncio.timeout(patience_s):
                while not await holds():
                    if await self._power() == "off":
                        raise Failed(f"{otherwise} (it went off)")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as e:
            raise Failed(f"{otherwise} within {patience_s:g} s") from e

    async def _power(self) -> MachineState:
        try:
            found = {one.name: one.state for one in await self._provider.machines()}
        except ProviderError:
            return "unknown"
        return found.get(self.machine.name, "unknown")

    async def _cluster_is_healthy(self, besides: Collection[str]) -> bool:
        try:
            return is_healthy(await look(self._config), besides)
        except CommandError:  # the host agent is away for a moment
            return False

    async def _status(self) -> HeadStatus:
        """What its sk8-machine says; nothing of it when it does not answer. The certificate is the machine's own."""
        _, context = rejoin.contexts(self.machine)
        try:
            return await rejoin.HeadClient((self.machine.ip, self._config.machine_port), context).status(5.0)
        except rejoin.Unreachable:
            return HeadStatus("", False)
