"""Which images go, when, and what is told: a table of images stands for the engine."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.node.config import KubeletConfig
from cluster.node.image_gc import ImageGc, Images, to_free
from cluster.node.runtime import EngineInfo, ImageEntry, ImageInfo, RuntimeFailure
from cluster.node.stats import DiskUsage

GB = 1 << 30


def entry(name: str, size: int = GB) -> ImageEntry:
    return ImageEntry((name,), size, name, pinned=name == "pinned")


@pytest.mark.parametrize(
    ("available", "high", "low", "freed"),
    [(16, 85, 80, 0), (15, 85, 80, 5), (0, 85, 80, 20), (0, 100, 80, 0), (20, 85, 80, 0), (50, 50, 10, 40)],
)
def test_so_much_is_freed_that_the_low_threshold_holds(available: int, high: int, low: int, freed: int) -> None:
    assert to_free(DiskUsage(100, available, 1, 1), high, low) == freed


def test_the_least_recently_used_goes_first_and_the_young_and_the_used_stay() -> None:
    images = Images(min_age_s=100, max_age_s=0)
    images.look([entry("a"), entry("b"), entry("c")], {"b"}, 10)
    images.look([entry("a"), entry("b"), entry("c"), entry("new")], {"a"}, 60)
    images.look([entry("a"), entry("b"), entry("c"), entry("new")], set(), 130)
    assert [i for i, _ in images.candidates(set(), 130)] == ["c", "b", "a"]
    assert [i for i, _ in images.candidates({"b"}, 130)] == ["c", "a"]
    assert [i for i, _ in images.candidates(set(), 160)] == ["c", "new", "b", "a"]
    assert images.too_old(set(), 10**9) == []


def test_what_was_not_used_for_too_long_goes() -> None:
    images = Images(min_age_s=0, max_age_s=60)
    images.look([entry("a"), entry("b")], {"b"}, 0)
    images.look([entry("a"), entry("b")], {"b"}, 50)
    assert images.too_old(set(), 70) == ["a"] and images.too_old({"a"}, 70) == []


class Engine:
    """The images of a disk of ten gigabytes."""

    def __init__(self, *names: str, in_use: tuple[str, ...] = (), stuck: tuple[str, ...] = ()) -> None:
        self.names = list(names)
        self.in_use = set(in_use)
        self.stuck = stuck

    async def images(self) -> list[ImageEntry]:
        return [entry(name) for name in self.names]

    async def images_in_use(self) -> set[str]:
        return set(self.in_use)

    async def image(self, name: str) -> ImageInfo | None:
        return ImageInfo("pause") if name == "sk8/pause:1" and "pause" in self.names else None

    async def engine_info(self) -> EngineInfo:
        return EngineInfo("/images")

    async def remove_image(self, image_id: str) -> None:
        if image_id in self.stuck:
            raise RuntimeFailure("a container has it", "Conflict")
        self.names.remove(image_id)

    def disk(self, path: str) -> DiskUsage:
        assert path == "/images"
        return DiskUsage(10 * GB, (10 - len(self.names)) * GB, 1, 1)


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, obj: Any, type_: str, reason: str, message: str) -> None:
        assert obj["kind"] == "Node" and type_ == "Warning"
        self.events.append((reason, message))


def gc(engine: Engine, recorder: Recorder, **settings: Any) -> ImageGc:
    config = KubeletConfig("m1", "127.0.0.1", "/r", "", "", "", image_minimum_gc_age_s=0, **settings)
    return ImageGc(config, engine, recorder, disk=engine.disk, clock=lambda: 1000.0)  # type: ignore[arg-type]


async def test_a_full_disk_loses_unused_images_down_to_the_low_threshold() -> None:
    engine, recorder = Engine("a", "b", "c", "d", "e", "f", "g", "h", "pause", in_use=("a",)), Recorder()
    await gc(engine, recorder, image_gc_low_threshold_percent=70).collect()
    assert engine.names == ["a", "d", "e", "f", "g", "h", "pause"] and recorder.events == []


async def test_what_could_not_be_freed_is_told() -> None:
    engine, recorder = Engine(*"abcdefghij", in_use=tuple("abcdefgh"), stuck=("i",)), Recorder()
    await gc(engine, recorder).collect()
    assert engine.names == list("abcdefghi")
    reason, message = recorder.events[0]
    assert reason == "FreeDiskSpaceFailed"
    assert message.endswith(f"free {2 * GB} bytes, but only found {GB} bytes eligible to free.")


async def test_a_short_disk_loses_all_unused_ones_but_the_pause_image() -> None:
    engine = Engine("a", "b", "pause", in_use=("b",))
    await gc(engine, Recorder()).remove_unused()
    assert engine.names == ["b", "pause"]


async def test_what_the_engine_has_pinned_stays() -> None:
    """A CRI runtime's own pause image has a name that the kubelet does not know, and often no container."""
    engine = Engine("a", "pinned", "b")
    await gc(engine, Recorder(), image_maximum_gc_age_s=1).remove_unused()
    assert engine.names == ["pinned"]
