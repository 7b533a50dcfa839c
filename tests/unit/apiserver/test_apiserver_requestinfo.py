"""What a method and a path ask for; which paths are refused."""

import pytest

from cluster.apiserver import requestinfo
from cluster.apiserver.requestinfo import BadPath, flag, multi, parse, split_target


def info(method: str, target: str):
    path, params = split_target(target)
    return parse(method, path, params)


@pytest.mark.parametrize(
    ("method", "target", "verb", "group", "resource", "namespace", "name", "sub"),
    [
        ("GET", "/api/v1/pods", "list", "", "pods", "", "", ""),
        ("GET", "/api/v1/pods?watch=1", "watch", "", "pods", "", "", ""),
        ("GET", "/api/v1/watch/pods", "watch", "", "pods", "", "", ""),
        ("GET", "/api/v1/namespaces/a/pods/p?watch=true", "get", "", "pods", "a", "p", ""),
        ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp", "list", "", "pods", "a", "p", ""),
        ("POST", "/api/v1/namespaces/a/pods", "create", "", "pods", "a", "", ""),
        ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection", "", "pods", "a", "", ""),
        ("DELETE", "/api/v1/namespaces/a/pods/p", "delete", "", "pods", "a", "p", ""),
        ("PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", "update", "apps", "deployments", "a", "d", "scale"),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d", "patch", "apps", "deployments", "a", "d", ""),
        ("GET", "/api/v1/namespaces/a", "get", "", "namespaces", "a", "a", ""),
        ("GET", "/api/v1/namespaces", "list", "", "namespaces", "", "", ""),
        ("PUT", "/api/v1/namespaces/a/finalize", "update", "", "namespaces", "a", "a", "finalize"),
        ("GET", "/api/v1/nodes/n/", "get", "", "nodes", "", "n", ""),
        ("HEAD", "/api/v1/nodes/n", "get", "", "nodes", "", "n", ""),
        ("OPTIONS", "/api/v1/nodes", "", "", "nodes", "", "", ""),
    ],
)
def test_resource_requests(method, target, verb, group, resource, namespace, name, sub):
    got = info(method, target)
    assert got.is_resource
    assert (got.verb, got.group, got.resource, got.namespace, got.name, got.subresource) == (
        verb,
        group,
        resource,
        namespace,
        name,
        sub,
    )


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/version"]
)
def test_other_paths_are_not_resources(path):
    got = info("GET", path)
    assert not got.is_resource
    assert got.verb == "get"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/../secrets",
        "/api/v1/namespaces/%2e%2e/secrets",
        "/api/v1/namespaces/a/pods/x%2fy",
        "/api/v1//pods",
        "/api/v1/namespaces/a/pods/p%00",
        "/api/v1/namespaces/a/pods/p/log/extra",
        "/api/v1/nodes/%ff",
        "api/v1/pods",
    ],
)
def test_path_tricks_are_refused(path):
    with pytest.raises(BadPath):
        info("GET", path)


def test_proxy_keeps_the_rest_of_the_path_as_it_was():
    got = info("GET", "/api/v1/namespaces/a/services/s/proxy/x%2Fy/../z/?q=1")
    assert (got.name, got.subresource, got.rest) == ("s", "proxy", "x%2Fy/../z/")


def test_flags_and_repeated_parameters():
    target = "/x?watch&tty=false&stdin=0&command=sh&command=-c&a=1&a=2"
    _, params = split_target(target)
    assert flag(params, "watch") and not flag(params, "tty") and not flag(params, "stdin") and not flag(params, "none")
    assert params["a"] == "1"
    assert multi(target, "command") == ["sh", "-c"]


def test_long_running_and_mutating():
    assert info("GET", "/api/v1/pods?watch=1").long_running
    assert info("GET", "/api/v1/namespaces/a/pods/p/log").long_running
    assert not info("GET", "/api/v1/pods").long_running
    assert info("DELETE", "/api/v1/namespaces/a/pods").mutating
    assert not info("GET", "/api/v1/pods").mutating


def test_what_is_remembered_of_paths_stays_small():
    """They come from anybody, also with the longest head that is read."""
    requestinfo._parse_plain.cache_clear()
    for i in range(3):
        assert requestinfo.parse("GET", f"/api/v1/pods/{i}{'x' * 60_000}", {}).resource == "pods"
    assert requestinfo._parse_plain.cache_info().currsize == 0
    for _ in range(3):
        assert requestinfo.parse("GET", "/api/v1/namespaces/a/pods/b", {}).name == "b"
    assert requestinfo._parse_plain.cache_info()[:2] == (2, 1)
