"""Addresses of pods: one owner each, reused late, kept over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.node.cni import link_name
from cluster.node.ipam import AddressBook, Allocator, RangeExhausted


def test_reserved_addresses_are_never_given_out() -> None:
    a = Allocator("10.0.0.0/29")
    got = [a.allocate(str(i)) for i in range(5)]
    assert got == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert a.free == 0 and a.gateway == "10.0.0.1"
    with pytest.raises(RangeExhausted):
        a.allocate("one more")


def test_an_owner_keeps_its_address() -> None:
    a = Allocator("10.0.0.0/29")
    assert a.allocate("x") == a.allocate("x")


def test_a_freed_address_is_reused_last() -> None:
    a = Allocator("10.0.0.0/29")
    first = a.allocate("a")
    assert a.release("a") and not a.release("a")
    assert [a.allocate(n) for n in "bcde"][-1] == "10.0.0.6"
    assert a.allocate("f") == first


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_no_address_ever_has_two_owners(steps: list[tuple[bool, int]]) -> None:
    a = Allocator("10.0.0.0/28")
    for take, who in steps:
        a.allocate(str(who)) if take else a.release(str(who))
        assert len(set(a.owners.values())) == len(a.owners)
        assert a.free == 13 - len(a.owners)


def test_the_book_survives_a_restart_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "n" / "addresses.json"
    book = AddressBook(path, "10.0.0.0/24")
    address = book.allocate("s1")
    book.allocate("s2")
    book.release("s2")
    again = AddressBook(path, "10.0.0.0/24")
    assert again.owners == {"s1": address}
    assert again.allocate("s3") == "10.0.0.4", "the search goes on where it was"
    assert AddressBook(path, "10.9.0.0/24").owners == {}
    path.write_text("{half")
    assert AddressBook(path, "10.0.0.0/24").owners == {}


def test_link_names_fit_and_differ() -> None:
    assert len(link_name("a" * 64)) <= 15
    assert link_name("a") != link_name("b")
