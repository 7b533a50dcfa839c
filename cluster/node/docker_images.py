"""Docker's images: what is there, pulling, removing.

IO through DockerCalls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import docker.errors

from cluster.node.docker_calls import CHANGE_S, SILENCE_S, DockerCalls
from cluster.node.pull_secrets import Credential
from cluster.node.runtime import ImageEntry, ImageInfo, RuntimeFailure

_T = TypeVar("_T")


class DockerImages:
    """`pulls`: what images are pulled with; `calls`: all else. Raises RuntimeFailure."""

    def __init__(self, calls: DockerCalls, pulls: DockerCalls) -> None:
        self._calls = calls
        self._pulls = pulls

    async def find(self, name: str) -> ImageInfo | None:
        answer = await self._unless_gone(lambda api: api.inspect_image(name))
        if answer is None:
            return None
        config = answer.get("Config") or {}
        return ImageInfo(str(answer["Id"]), str(config.get("User") or ""), str(config.get("StopSignal") or ""))

    async def all(self) -> list[ImageEntry]:
        answer = await self._calls.call(lambda api: api.images())
        return [ImageEntry(_names(entry), int(entry.get("Size") or 0), str(entry["Id"])) for entry in answer]

    async def in_use(self) -> set[str]:
        return {str(entry["ImageID"]) for entry in await self._calls.call(lambda api: api.containers(all=True))}

    async def remove(self, image_id: str) -> None:
        """Name by name: with several, the engine takes an id only by force, which would not spare containers."""
        image = await self._unless_gone(lambda api: api.inspect_image(image_id))
        for name in (*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())) if image else ():
            await self._unless_gone(functools.partial(_untag, name=name))
        if image:
            await self._unless_gone(lambda api: api.remove_image(image_id))

    async def pull(self, name: str, credential: Credential | None, source: str) -> ImageInfo:
        """From `source` if given; the image is called `name` afterwards. It may take long, but not without progress."""
        repository, tag = _split(source or name)
        auth = None if credential is None else {"username": credential.username, "password": credential.password}

        def pull(api: Any) -> None:
            for line in api.pull(repository, tag=tag, stream=True, decode=True, auth_config=auth):
                if "error" in line:  # the answer's status was sent before the layers
                    raise docker.errors.APIError(str(line["error"]), explanation=str(line["error"]))
            if source and source != name:
                api.tag(source, *_split(name))
                api.remove_image(source)

        await self._pulls.call(pull, limit_s=SILENCE_S)
        image = await self.find(name)
        if image is None:
            raise RuntimeFailure(f"image {name} is absent after it was pulled", "ErrImagePull")
        return image

    async def _unless_gone(self, what: Callable[[Any], _T]) -> _T | None:
        try:
            return await self._calls.call(what, limit_s=CHANGE_S)
        except RuntimeFailure as err:
            if err.reason != "NotFound":
                raise
            return None


def _untag(api: Any, name: str) -> None:
    api.remove_image(name)


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    """An image's names without the engine's <none>."""
    digests, tags = (sorted(n for n in entry.get(k) or () if "<none>" not in n) for k in ("RepoDigests", "RepoTags"))
    return (*digests, *tags)


def _split(name: str) -> tuple[str, str | None]:
    """registry:5000/a/b:tag -> (registry:5000/a/b, tag); a digest stays part of the name."""
    if "@" in name:
        return name, None
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        return head, tail
    return name, "latest"
