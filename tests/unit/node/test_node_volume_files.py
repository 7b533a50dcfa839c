"""File volumes: what is in them and how they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.api.volumes import DiskSource
from cluster.node.docker_spec import container_body
from cluster.node.host_path import check_host_path
from cluster.node.mounts import parse_mountinfo
from cluster.node.pod_env import ConfigError, EnvContext
from cluster.node.runtime import ContainerConfig, Mount, PodRef
from cluster.node.volume_device import VolumeFailure
from cluster.node.volume_files import FileContent, checked_path, downward_payload, object_payload, write_atomically


def test_updates_are_one_rename_and_old_content_goes(tmp_path: Path) -> None:
    target = str(tmp_path / "v")
    one = {"a": FileContent(b"1", 0o640), "d/b": FileContent(b"2", 0o644)}
    assert write_atomically(target, one)
    assert (tmp_path / "v/a").read_bytes() == b"1" and (tmp_path / "v/d/b").read_bytes() == b"2"
    assert (tmp_path / "v/a").stat().st_mode & 0o777 == 0o640
    assert not write_atomically(target, one), "nothing changed"
    inode = (tmp_path / "v/a").lstat().st_ino
    assert write_atomically(target, {"a": FileContent(b"new", 0o640)})
    assert (tmp_path / "v/a").read_bytes() == b"new" and (tmp_path / "v/a").lstat().st_ino == inode
    assert sorted(os.listdir(tmp_path / "v"))[0] == "..data" or len(os.listdir(tmp_path / "v")) == 3
    assert not (tmp_path / "v/d").exists()
    assert len(os.listdir(tmp_path / "v")) == 3  # ..data, one hashed directory, a


def test_a_half_written_update_is_tidied(tmp_path: Path) -> None:
    target = tmp_path / "v"
    write_atomically(str(target), {"a": FileContent(b"1", 0o644)})
    (target / "..data_tmp").symlink_to("nowhere")
    (target / "..older").mkdir()
    assert write_atomically(str(target), {"a": FileContent(b"2", 0o644)})
    assert (target / "a").read_bytes() == b"2"
    assert len(os.listdir(target)) == 3


def test_config_map_items() -> None:
    obj = {"data": {"k": "v", "l": "w"}, "binaryData": {"b": "AAE="}}
    assert object_payload(obj, "configmap", {"name": "c"}, 0o644)["b"].data == b"\0\1"
    source = {"name": "c", "items": [{"key": "k", "path": "x/y", "mode": 0o400}]}
    assert object_payload(obj, "configmap", source, 0o644) == {"x/y": FileContent(b"v", 0o400)}
    with pytest.raises(ConfigError, match="references non-existent configmap key: q"):
        object_payload(obj, "configmap", {"items": [{"key": "q", "path": "q"}]}, 0o644)
    with pytest.raises(ConfigError, match='secret "s" not found'):
        object_payload(None, "secret", {"secretName": "s"}, 0o644)
    assert object_payload(None, "secret", {"secretName": "s", "optional": True}, 0o644) == {}


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "", "..data/x"])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(ConfigError):
        checked_path(path)


def test_downward_api() -> None:
    pod = {
        "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]},
    }
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
    ]
    payload = downward_payload(items, EnvContext(pod, "", ""), 0o644)
    assert {k: v.data for k, v in payload.items()} == {"labels": b'a="b"', "cpu": b"2"}


def test_only_a_propagation_that_is_not_the_default_is_asked_for() -> None:
    """Regression: a hostPath of / was refused by the engine, whose own directory lies below it."""
    mounts = (Mount("/", "/host"), Mount("/mnt", "/mnt", propagation="rslave"))
    body = container_body("m1", ContainerConfig(PodRef("n", "p", "u"), "c", 0, "s", "i", mounts=mounts))
    assert [m.get("BindOptions") for m in body["HostConfig"]["Mounts"]] == [None, {"Propagation": "rslave"}]


def test_host_path_types(tmp_path: Path) -> None:
    check_host_path(str(tmp_path / "made"), "DirectoryOrCreate")
    check_host_path(str(tmp_path / "file"), "FileOrCreate")
    check_host_path("/dev/null", "CharDevice")
    with pytest.raises(VolumeFailure, match="is not a directory"):
        check_host_path(str(tmp_path / "file"), "Directory")
    with pytest.raises(VolumeFailure, match="is not a file"):
        check_host_path(str(tmp_path / "absent"), "File")


def test_mountinfo() -> None:
    text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\nnonsense\n"
    (entry,) = parse_mountinfo(text)
    assert (entry.device, entry.root, entry.target, entry.fstype) == ("98:0", "/mnt1", "/mnt 2", "ext3")


def test_attachment_name_is_kubernetes() -> None:
    # sha256("pv-handle" + "block.sk8.io" + "m1")
    assert (
        DiskSource("b", "a").attachment_name("c")
        == "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
