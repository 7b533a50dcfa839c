"""Ordered keys against a plain sorted list; leases by a clock that the test turns."""

from __future__ import annotations

import struct
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import Invalid, LeaseNotFound
from raft.mvcc import keys as keys_module
from raft.mvcc.keys import SortedKeys
from raft.mvcc.lease import Leases
from tests.support.dict_backend import DictBackend

name = st.binary(min_size=1, max_size=2)


@given(st.lists(st.tuples(st.booleans(), name), max_size=120), name, name | st.just(b"\0"), st.integers(1, 9))
@settings(deadline=None, max_examples=150)
def test_ordered_keys(changes: list[tuple[bool, bytes]], start: bytes, end: bytes, limit: int) -> None:
    chunk, keys_module._CHUNK = keys_module._CHUNK, 4
    try:
        mine, plain = SortedKeys([b"m"]), [b"m"]
        for add, key in changes:
            if add and key not in plain:
                mine.add(key)
                plain.insert(bisect_left(plain, key), key)
            elif not add and key in plain:
                mine.remove(key)
                plain.remove(key)
        expected = [k for k in plain if k >= start and (end == b"\0" or k < end)]
        assert (len(mine), mine.count(start, end)) == (len(plain), len(expected))
        assert mine.take(start, end, limit) == expected[:limit]
        assert mine.take(b"", b"\0", 1000) == plain
    finally:
        keys_module._CHUNK = chunk


def test_the_leaders_clock_alone_expires() -> None:
    leases = Leases(DictBackend())
    leases.grant(1, 10, 0.0)
    assert leases.expired(1e9, 9) == []
    leases.promote(100.0, 1.0)
    leases.grant(2, 5, 100.0)
    assert leases.expired(104.9, 9) == []
    assert leases.expired(105.0, 9) == [2]
    assert leases.renew(1, 105.0) == 10
    assert leases.expired(111.0, 9) == [2], "asked for again as long as it is not revoked"
    leases.remove(2)
    assert leases.expired(115.0, 9) == [1]


def test_nobody_has_to_look_before_a_lease_can_be_over() -> None:
    leases = Leases(DictBackend())
    leases.grant(1, 10, 0.0)
    assert leases.due_in_s(0.0) == float("inf"), "not the leader's clock"
    leases.promote(100.0, 1.0)
    leases.grant(2, 5, 100.0)
    assert leases.due_in_s(102.0) == 3.0
    leases.renew(2, 104.0)
    assert leases.due_in_s(105.5) == 0.0 and leases.expired(105.5, 9) == []
    assert leases.due_in_s(105.5) == 3.5, "moved once it was looked at"


def test_a_lease_that_is_being_revoked_cannot_be_renewed() -> None:
    leases = Leases(DictBackend())
    leases.promote(0.0, 0.0)
    leases.grant(1, 5, 0.0)
    assert leases.expired(5.0, 9) == [1]
    with pytest.raises(LeaseNotFound):
        leases.renew(1, 5.0)
    # The revoke was lost with the leader; the next one gives it its whole life again.
    leases.demote()
    leases.promote(6.0, 1.0)
    assert leases.renew(1, 6.0) == 5
    assert leases.expired(11.9, 9) == []


def test_leases_stored_before_there_were_checkpoints_are_read() -> None:
    backend = DictBackend()
    backend.meta_set(b"lease/" + struct.pack(">Q", 7), struct.pack(">Q", 60))
    leases = Leases(backend)
    assert (leases.get(7).ttl_s, leases.get(7).remaining_s, leases.get(7).checkpointed) == (60, 0, False)
    leases.checkpoint(7, 20)
    assert Leases(backend).get(7).remaining_s == 20


def test_what_a_long_lease_has_left_survives_a_change_of_leader() -> None:
    backend = DictBackend()
    leases = Leases(backend)
    leases.promote(0.0, 0.0)
    for lease_id, ttl_s in ((1, 1000), (2, 10)):
        leases.grant(lease_id, ttl_s, 0.0)
    told = leases.to_checkpoint(900.0, 300.0)
    assert told == [(1, 100)], "a short one is not written down"
    assert leases.get(1).checkpointed, "a renewal from now on has something to take back"
    leases.checkpoint(*told[0])
    leases.checkpoint(9, 5)
    follower = Leases(backend)
    follower.promote(2000.0, 1.0)
    assert follower.expired(2011.0, 9) == [2] and follower.expired(2100.9, 1) != [1]
    assert 1 in follower.expired(2101.0, 9)

    leases.renew(1, 950.0)
    leases.checkpoint(1, 0)
    assert not leases.get(1).checkpointed
    again = Leases(backend)
    again.promote(3000.0, 1.0)
    assert again.remaining_s(1, 3000.0) == 1001.0


def test_leases_survive_with_their_ttl() -> None:
    backend = DictBackend()
    Leases(backend).grant(7, 30, 0.0)
    again = Leases(backend)
    assert again.ids() == [7] and again.get(7).ttl_s == 30
    with pytest.raises(Invalid, match="lease already exists"):
        again.grant(7, 30, 0.0)
    with pytest.raises(Invalid, match="must be from 1 to"):
        again.grant(8, 0, 0.0)
