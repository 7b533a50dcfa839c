"""subPaths are bound as what they were found to be, inside their volume, whatever containers do meanwhile."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from pathlib import Path

import pytest

from cluster.node import subpaths
from cluster.node.container_start import with_subpaths
from cluster.node.pod_env import ConfigError
from cluster.node.runtime import ContainerConfig, Mount, PodRef
from cluster.node.subpaths import bind_subpath, reach
from cluster.node.volumes import MountedVolumes


class Binds:
    """In place of mount(2), which wants root: what was bound where."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}

    def __call__(self, source: str, target: str) -> None:
        assert os.path.isdir(target) == os.path.isdir(source), "a directory over a directory, a file over a file"
        self.done[target] = os.readlink(source)


@pytest.fixture(autouse=True)
def nothing_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subpaths, "_let_go", lambda target: None)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "v"
    made.mkdir()
    made.chmod(0o2770)
    return made


def test_what_is_absent_is_made_as_the_volume_is(tmp_path: Path, volume: Path) -> None:
    binds = Binds()
    place = bind_subpath(str(volume), f"{volume}/a/b", tmp_path / "at" / "0", binds)
    assert (place, binds.done[place]) == (str(tmp_path / "at/0"), f"{volume}/a/b")
    assert [(volume / d).stat().st_mode & 0o7777 for d in ("a", "a/b")] == [0o2770, 0o2770]


def test_a_file_and_later_a_directory(tmp_path: Path, volume: Path) -> None:
    binds, place = Binds(), tmp_path / "at" / "0"
    (volume / "x").write_text("file")
    bind_subpath(str(volume), f"{volume}/x", place, binds)
    assert place.is_file()
    (volume / "x").unlink()
    bind_subpath(str(volume), f"{volume}/x", place, binds)
    assert place.is_dir() and binds.done[str(place)] == f"{volume}/x"


def test_links_inside_the_volume_are_followed(volume: Path) -> None:
    (volume / "data").mkdir()
    (volume / "now").symlink_to("data")
    found = reach(str(volume), f"{volume}/now")
    assert os.readlink(f"/proc/self/fd/{found}") == f"{volume}/data"
    os.close(found)


@pytest.mark.parametrize("link", ["/etc", "../", "/bin/notanexistingpath", "/etc/passwd"])
def test_links_that_lead_out_are_refused(tmp_path: Path, volume: Path, link: str) -> None:
    (volume / "out").symlink_to(link)
    with pytest.raises(ConfigError, match=r"subPath 'out.*' leads out of the volume"):
        bind_subpath(str(volume), f"{volume}/out/", tmp_path / "at", Binds())
    assert not (tmp_path / "notanexistingpath").exists()


@pytest.mark.parametrize("swapped", ["a", "a/b"])
def test_a_link_put_there_after_the_look_is_not_followed(
    tmp_path: Path, volume: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of CVE-2021-25741, lost on purpose: the container acts right after links were followed."""
    (volume / "a/b").mkdir(parents=True)
    binds, resolve = Binds(), os.path.realpath

    def realpath(path: str) -> str:
        real = resolve(path)
        if real == f"{volume}/a/b":
            (volume / swapped).rename(tmp_path / "gone")
            (volume / swapped).symlink_to("/etc")
        return real

    monkeypatch.setattr(subpaths.os.path, "realpath", realpath)
    with pytest.raises(ConfigError, match="failed to prepare subPath 'a/b'"):
        bind_subpath(str(volume), f"{volume}/a/b", tmp_path / "at", binds)
    assert not binds.done


def descriptors() -> int:
    """How many are open; what an earlier test left to be collected is not among them."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_are_closed(tmp_path: Path, volume: Path) -> None:
    before = descriptors()
    (volume / "out").symlink_to("/etc")
    bind_subpath(str(volume), f"{volume}/a/b/c", tmp_path / "at" / "0", Binds())
    (volume / "f").touch()
    for refused in ("out", "f/below"):
        with pytest.raises(ConfigError):
            bind_subpath(str(volume), f"{volume}/{refused}", tmp_path / "at" / "1", Binds())
    assert descriptors() <= before


@pytest.mark.parametrize("call", ["chmod", "chown"])
@pytest.mark.parametrize(("number", "fails"), [(errno.EPERM, False), (errno.EIO, True)])
def test_a_file_system_that_has_no_owners_or_fails(
    call: str, number: int, fails: bool, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: each directory that was made left a descriptor open then."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subpaths.os, call, refused)
    before, binds = descriptors(), Binds()
    with pytest.raises(ConfigError, match="failed to prepare subPath 'a/b'") if fails else contextlib.nullcontext():
        bind_subpath(str(volume), f"{volume}/a/b", tmp_path / "at", binds)
    assert descriptors() <= before and bool(binds.done) is not fails


def test_a_mount_is_of_the_innermost_volume(tmp_path: Path) -> None:
    """Regression: a hostPath of / (kubectl debug node) took every other volume for one of its subPaths."""
    token = tmp_path / "token"
    token.mkdir()
    volumes = MountedVolumes({"host": "/", "token": str(token)}, frozenset())
    mounts = (Mount("/", "/host"), Mount(str(token), "/run/token"), Mount(f"{token}/sub", "/sub", True, "rslave"))
    config = ContainerConfig(PodRef("n", "p", "u"), "c", 0, "s", "i", mounts=mounts)
    binds, at = Binds(), tmp_path / "at"
    changed = with_subpaths(config, volumes, at, binds).mounts
    assert changed == (*mounts[:2], Mount(str(at / "2"), "/sub", True, "rslave"))
    assert binds.done == {str(at / "2"): f"{token}/sub"}
    found = reach("/", str(token))
    assert os.readlink(f"/proc/self/fd/{found}") == str(token)
    os.close(found)
