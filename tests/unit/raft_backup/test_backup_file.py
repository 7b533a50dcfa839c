"""Saved states: refused when damaged, and made the members of a new cluster that has everything in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raft.backup.file import describe, restore
from raft.errors import Corrupt, Invalid, StoreError
from raft.storage.errors import DirectoryNotEmpty
from tests.unit.raft_backup.raft_backup_store import addresses, saved, serving


async def test_status_says_what_is_in_it(tmp_path: Path) -> None:
    path, status = await saved(tmp_path)
    assert (status.cluster_id, status.members, status.greatest_id, status.alarms) == ("old", (1,), 1, ())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == status.size_bytes + 32
    before = path.read_bytes()
    assert describe(path, skip_hash_check=True).hash == status.hash
    assert path.read_bytes() == before, "looking changes nothing"


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path, status = await saved(tmp_path)
    whole = path.read_bytes()
    for at in (0, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match="SHA-256"):
            describe(path)
    path.write_bytes(whole[:-32])
    with pytest.raises(Invalid, match="checksum at its end is missing"):
        describe(path)
    assert describe(path, skip_hash_check=True).hash == status.hash, "a bare data.mdb, on request"
    # A record that was changed is found by the store's own hash, whatever the file's says.
    at = whole.index(b"v33")
    path.write_bytes(whole[:at] + b"v34" + whole[at + 3 :])
    with pytest.raises(Corrupt, match="records hash to"):
        describe(path, skip_hash_check=True)
    path.write_bytes(b"x" * 4096 + b"y" * 32)
    with pytest.raises(Invalid, match="no state of a store"):
        describe(path, skip_hash_check=True)


async def test_a_restored_group_is_a_new_one_with_everything_in_it(tmp_path: Path) -> None:
    path, status = await saved(tmp_path)
    members = addresses(*range(status.greatest_id + 1, status.greatest_id + 4))
    for member in members:
        restore(path, tmp_path / "new" / str(member), "new", member, members)
    async with serving(tmp_path / "new", members) as store:
        found = await store.range(b"\0", b"\0")
        assert found.count == status.keys and found.revision == status.revision
        said = await asyncio.gather(*(store.hash(endpoint) for endpoint in store.endpoints))
        assert {(digest, revision) for digest, revision, _, _ in said} == {(status.hash, status.revision)}
        assert [member for member, _, _ in await store.member_list()] == [2, 3, 4]
        assert (await store.status(store.endpoints[0]))["cluster_id"] == "new"
        assert len(await store.lease_list()) == 1
        # History goes on where it was, and the old member can never come back.
        assert await store.put(b"more", b"") == status.revision + 1
        assert (await store.range(b"k/000", revision=status.revision - 1)).count == 1
        with pytest.raises(Invalid, match="removed for good"):
            await store.member_add(1, ("127.0.0.1", 1, 2))


async def test_a_revision_that_jumps_ends_watches_from_before(tmp_path: Path) -> None:
    path, status = await saved(tmp_path)
    members = addresses(2)
    restore(path, tmp_path / "new" / "2", "new", 2, members, bump_revision=1000, drop=(b"drop/",))
    async with serving(tmp_path / "new", members) as store:
        # One for the delete, a thousand for the jump.
        assert await store.read_index() == status.revision + 1001
        assert (await store.range(b"\0", b"\0")).count == status.keys - 1
        for revision in (status.revision, status.revision + 500):
            with pytest.raises(StoreError) as compacted:
                await anext(store.watch(b"k/", b"k0", start_revision=revision))
            assert compacted.value.code == "compacted"
        assert (await store.range(b"k/001")).kvs[0].mod_revision < status.revision, "keys keep their revisions"


async def test_ids_and_directories_are_not_used_again(tmp_path: Path) -> None:
    path, _ = await saved(tmp_path)
    with pytest.raises(Invalid, match="was used before"):
        restore(path, tmp_path / "new" / "1", "new", 1, addresses(1))
    members = addresses(2)
    restore(path, tmp_path / "new" / "2", "new", 2, members)
    with pytest.raises(DirectoryNotEmpty):
        restore(path, tmp_path / "new" / "2", "new", 2, members)
