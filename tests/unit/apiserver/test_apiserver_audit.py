"""The audit log: what a policy notes, what it never does, and the file."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from cluster.apiserver.audit import BadPolicy, Policy
from cluster.apiserver.auditlog import RotatingFile
from cluster.apiserver.requestinfo import parse
from cluster.registry.context import UserInfo
from tests.support.apiserver_harness import edge

CM = "/api/v1/namespaces/default/configmaps"
JANE = UserInfo("jane", groups=("dev", "system:authenticated"))


def policy(*rules: dict[str, Any], **more: Any) -> Policy:
    return Policy({"kind": "Policy", "apiVersion": "audit.k8s.io/v1", "rules": list(rules), **more})


@pytest.mark.parametrize(
    ("rule", "method", "path", "noted"),
    [
        ({"users": ["jane"]}, "GET", CM, True),
        ({"users": ["joe"]}, "GET", CM, False),
        ({"userGroups": ["dev"]}, "GET", CM, True),
        ({"verbs": ["list"]}, "GET", CM, True),
        ({"verbs": ["get"]}, "GET", CM, False),
        ({"resources": [{"resources": ["configmaps"]}]}, "GET", CM, True),
        ({"resources": [{"group": "apps"}]}, "GET", CM, False),
        ({"resources": [{"resources": ["pods"]}]}, "GET", "/api/v1/namespaces/x/pods/p/log", False),
        ({"resources": [{"resources": ["pods/*"]}]}, "GET", "/api/v1/namespaces/x/pods/p/log", True),
        ({"resources": [{"resources": ["*/log"]}]}, "GET", "/api/v1/namespaces/x/pods/p/log", True),
        ({"resources": [{"resources": ["configmaps"], "resourceNames": ["a"]}]}, "GET", CM + "/b", False),
        ({"namespaces": ["kube-system"]}, "GET", CM, False),
        ({"nonResourceURLs": ["/healthz*"]}, "GET", "/healthz/etcd", True),
        ({"nonResourceURLs": ["/version"]}, "GET", CM, False),
    ],
)
def test_what_a_policys_rule_matches_is_noted(rule: dict[str, Any], method: str, path: str, noted: bool) -> None:
    judged = policy({"level": "Metadata", **rule}).judge(JANE, parse(method, path, {}))
    assert judged.notes("ResponseComplete") is noted


def test_the_first_rule_decides_and_secrets_stay_secret() -> None:
    rules = policy({"level": "None", "users": ["joe"]}, {"level": "RequestResponse"}, omitStages=["RequestReceived"])
    info = parse("GET", "/api/v1/namespaces/x/secrets/s", {})
    assert rules.judge(UserInfo("joe"), info).level == "None"
    assert rules.judge(JANE, info).level == "Metadata"
    assert rules.judge(JANE, parse("POST", "/api/v1/namespaces/x/serviceaccounts/a/token", {})).level == "Metadata"
    judged = rules.judge(JANE, parse("GET", CM, {}))
    assert (judged.level, judged.notes("RequestReceived")) == ("RequestResponse", False)


@pytest.mark.parametrize(
    "bad",
    [
        {"rules": []},
        {"rules": [{"level": "Loud"}]},
        {"rules": [{"level": "None", "wat": 1}]},
        {"rules": [{"level": "None", "nonResourceURLs": ["/x"], "resources": [{}]}]},
        {"rules": [{"level": "None"}], "omitStages": ["Never"]},
    ],
)
def test_bad_policies(bad: dict[str, Any]) -> None:
    with pytest.raises(BadPolicy):
        Policy({"kind": "Policy", "apiVersion": "audit.k8s.io/v1", **bad})


async def test_requests_are_noted(pki: Any, tmp_path: Path) -> None:
    rules = [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/api*"]},
        {"level": "RequestResponse", "omitManagedFields": True},
    ]
    file, log = tmp_path / "policy.yaml", tmp_path / "log" / "audit.log"
    file.write_text(yaml.dump({"kind": "Policy", "apiVersion": "audit.k8s.io/v1", "rules": rules}))
    async with edge(pki, audit_policy_file=str(file), audit_log_path=str(log)) as server:
        await server.create(CM, {"metadata": {"name": "a"}, "data": {"k": "v"}})
        secret = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
        await server.create("/api/v1/namespaces/default/secrets", secret)
        await server.call("GET", CM + "/a", cert="alice", headers={"Audit-Id": "mine"})
        await server.call("GET", CM + "/b", headers={"Impersonate-User": "bob", "Impersonate-Group": "system:masters"})
        await server.call("GET", "/api")
        async with asyncio.timeout(10):
            while not log.exists() or log.read_text().count("ResponseComplete") < 4:
                await asyncio.sleep(0.05)
    text = log.read_text()
    assert "hunter2" not in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    events = [orjson.loads(line) for line in text.splitlines()]
    done = [e for e in events if e["stage"] == "ResponseComplete"]
    created, secret_event, refused, missing = done
    assert created["requestObject"]["data"] == {"k": "v"}
    assert created["responseObject"]["metadata"]["uid"]
    assert "managedFields" not in created["responseObject"]["metadata"]
    assert created["objectRef"] == {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}
    assert secret_event["level"] == "Metadata" and "requestObject" not in secret_event
    assert (refused["auditID"], refused["user"]["username"], refused["responseStatus"]["code"]) == (
        "mine",
        "alice",
        403,
    )
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert (missing["user"]["username"], missing["impersonatedUser"]["username"]) == ("admin", "bob")
    assert missing["responseStatus"]["reason"] == "NotFound"
    assert {e["stage"] for e in events} == {"RequestReceived", "ResponseComplete"}


def test_the_file_is_rotated(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "a.log"), max_bytes=100, backups=2, max_age_days=0)
    for i in range(8):
        file.append(f"{i}".encode() * 60)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) <= 3 and "a.log" in names
    assert (tmp_path / "a.log").read_bytes() == b"7" * 60
