"""Label and field selectors."""

from __future__ import annotations

import pytest

from cluster.api import selectors


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("a=b", {"a": "b"}, True), ("a==b", {"a": "c"}, False), ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (x, y)", {"a": "y"}, True), ("a notin (x,y)", {"a": "y"}, False), ("a notin (x)", {}, True),
        ("a", {"a": ""}, True), ("!a", {"a": "1"}, False), ("!a,b=1", {"b": "1"}, True), ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "x"}, False), ("", {"x": "y"}, True), ("a=", {"a": ""}, True),
        ("x.io/a=b", {"x.io/a": "b"}, True),
    ],
)  # fmt: skip
def test_label_selector(text: str, labels: dict[str, str], matches: bool) -> None:
    assert selectors.parse_label_selector(text).matches(labels) is matches


@pytest.mark.parametrize("text", ["a in x", "a=b c", "=b", "a>x", "a,", "a in (x", "a=_bad_"])
def test_label_selector_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        selectors.parse_label_selector(text)


def test_struct_selector() -> None:
    s = selectors.from_label_selector(
        {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["1", "2"]}]}
    )
    assert s.matches({"a": "b", "c": "2"})
    assert not s.matches({"a": "b"})
    assert str(s) == "a=b,c in (1,2)"
    assert not selectors.from_label_selector(None).matches({})
    assert selectors.from_label_selector({}).matches({"x": "y"})
    assert selectors.from_map({"a": "b"}).matches({"a": "b", "z": "1"})


def test_field_selector() -> None:
    pod = {"metadata": {"name": "x"}, "spec": {"nodeName": "m1"}, "status": {"phase": "Running"}}
    assert selectors.parse_field_selector("spec.nodeName=m1,status.phase!=Failed").matches(pod)
    assert not selectors.parse_field_selector("metadata.name!=x").matches(pod)
    assert selectors.parse_field_selector("spec.unschedulable=false").matches({"spec": {}})
    assert selectors.parse_field_selector("metadata.name=x").required("metadata.name") == "x"
    assert selectors.parse_field_selector("spec.nodeName=").matches({"spec": {}})
    assert selectors.parse_field_selector("source=kubelet").matches({"source": {"component": "kubelet"}})
    assert selectors.parse_field_selector("source=c").matches({"source": {}, "reportingComponent": "c"})
    assert selectors.parse_field_selector("status.successful=1").matches({"status": {"succeeded": 1}})
    assert selectors.parse_field_selector("status.successful=0,name=j").matches({"metadata": {"name": "j"}})
    with pytest.raises(ValueError, match="can't understand"):
        selectors.parse_field_selector("nonsense")
