"""Options of requests, and fields said twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.errors import ApiError
from cluster.apiserver import options
from cluster.registry.duplicates import duplicate_fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"a":1,"a":2}', ["a"]),
        (b'{ "a" : {"b":[{"c":1,"c":1,"d":0,"c":2}]} }', ["a.b[0].c"]),
        (b'{"a":1, "b":2}', []),
        (b'{"a":{"x":1},"b":{"x":1}}', []),
        (b'{"k":1,"\\u006b":2}', ["k"]),
    ],
)
def test_duplicates_are_named(raw: bytes, found: list[str]) -> None:
    import orjson

    assert duplicate_fields(raw, orjson.loads(raw)) == found


def test_many_fields_of_which_one_is_said_twice() -> None:
    """Regression: looking for it took time quadratic in their number, minutes here."""
    import orjson

    fields = ",".join(f'"k{i}":1' for i in range(100_000))
    raw = f'{{{fields},"k99999":2}}'.encode()
    assert duplicate_fields(raw, orjson.loads(raw)) == ["k99999"]


@given(JSON, st.booleans())
def test_what_repeats_nothing_has_no_duplicates(value: object, pretty: bool) -> None:
    import orjson

    raw = orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else 0)
    assert duplicate_fields(raw, value) == []


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"resourceVersionMatch": "Exact"}, 422, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Odd", "resourceVersion": "1"}, 422, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": "x"}, 422, "resourceVersionMatch"),
        ({"sendInitialEvents": "true"}, 422, "sendInitialEvents"),
        ({"continue": "x", "resourceVersion": "5"}, 400, ""),
        ({"timeoutSeconds": "soon"}, 400, ""),
    ],
)
def test_list_options_that_do_not_fit(params: dict[str, str], code: int, field: str) -> None:
    with pytest.raises(ApiError) as e:
        options.check_list(params)
    assert e.value.code == code
    causes = (e.value.details or {}).get("causes") or [{}]
    assert causes[0].get("field", "") == field


def test_write_options() -> None:
    assert options.write_options({"dryRun": "All", "fieldManager": "me"}, "patch") == (True, "Warn", "me")
    for params in ({"dryRun": "Some"}, {"fieldValidation": "x"}, {"fieldManager": "m" * 129}, {"fieldManager": "\x07"}):
        with pytest.raises(ApiError) as e:
            options.write_options(params, "update")
        assert (e.value.code, e.value.details["kind"]) == (422, "UpdateOptions")


def test_a_watch_begins_with_the_present_only_as_kubernetes_allows() -> None:
    assert options.send_initial_events({}) is None
    assert options.send_initial_events({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"})
    for params in (
        {"sendInitialEvents": "true"},
        {"sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "NotOlderThan"},
    ):
        with pytest.raises(ApiError):
            options.send_initial_events(params)
