"""Clients' YAML: as JSON would have it, and never larger in memory than it was on the wire."""

from __future__ import annotations

import pytest

from cluster.api.errors import ApiError
from cluster.api.patch import APPLY_PATCH, MERGE_PATCH
from cluster.registry import yaml_input
from cluster.registry.patching import parse_body

BOMB = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


def test_as_json_has_it() -> None:
    text = b"day: 2026-11-23\nnumber: 3\nfine: true\nnothing:\n8080: port\n"
    assert yaml_input.load(text) == {"day": "2026-11-23", "number": 3, "fine": True, "nothing": None, "8080": "port"}


def test_times_are_no_numbers_to_the_base_of_sixty() -> None:
    read = yaml_input.load(b"a: 12:30\nb: 1:30:45.5\nc: 0x10\nd: 1.5\ne: -7\n")
    assert read == {"a": "12:30", "b": "1:30:45.5", "c": 16, "d": 1.5, "e": -7}


HUGE = b"a: " + b"9" * 5000


@pytest.mark.parametrize("text", [BOMB, HUGE, b"a: [", b"a: !!python/object:os.system x", b"\xff\xfe\xfd", b"[" * 5000])
def test_what_is_refused(text: bytes) -> None:
    with pytest.raises(yaml_input.BadYaml):
        yaml_input.load(text)


@pytest.mark.parametrize("opening", ["[", "{", "- ", "[a, ", "{a: "])
def test_deep_nesting_is_refused_as_soon_as_it_is_seen(opening: str) -> None:
    """Regression: a patch of 1.5 MB of brackets kept an API server from everything else for good."""
    with pytest.raises(yaml_input.BadYaml, match="exceeded max depth"):
        yaml_input.load(opening * 500_000)


def test_an_apply_patch_is_read_with_the_same_care() -> None:
    """Regression: aliases of an apply patch were expanded."""
    with pytest.raises(ApiError, match="aliases are not accepted"):
        parse_body(BOMB, APPLY_PATCH)
    read = {"metadata": {"annotations": {"since": "2026-11-23"}}}
    assert parse_body(b"metadata: {annotations: {since: 2026-11-23}}", APPLY_PATCH) == (read, ())
    again = 'line 3: key "b" already set in map'
    assert parse_body(b"a:\n  b: 1\n  b: 2\n", APPLY_PATCH) == ({"a": {"b": 2}}, (again,))
    with pytest.raises(ApiError):
        parse_body(b"a: b", MERGE_PATCH)
