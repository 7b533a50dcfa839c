"""Certificates, tokens, impersonation, authorization and reviews."""

import dataclasses

import pytest

from cluster.apiserver.tokens import InvalidToken, TokenSigner, TokenVerifier
from tests.support.apiserver_harness import edge

SA = "/api/v1/namespaces/default/serviceaccounts"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture
async def server(pki):
    async with edge(pki) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def token_for(server, name: str = "robot", **spec) -> str:
    await server.call("POST", SA, {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": name}})
    got = await server.call("POST", f"{SA}/{name}/token", {"spec": {"expirationSeconds": 600, **spec}})
    assert got.status == 201, got.body
    return got.json["status"]["token"]


async def whoami(server, **how):
    body = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
    got = await server.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, **how)
    assert got.status == 201, got.body
    return got.json["status"]["userInfo"]


async def test_certificate_is_the_user(server):
    me = await whoami(server)
    assert (me["username"], me["groups"]) == ("admin", ["system:masters", "system:authenticated"])
    got = await server.call("GET", "/api/v1/namespaces/default/pods", cert="alice")
    assert (got.status, got.json["reason"]) == (403, "Forbidden")
    assert got.json["message"] == (
        'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default"'
    )
    got = await server.call("GET", "/metrics", cert="alice")
    assert (got.status, got.json["message"]) == (403, 'forbidden: User "alice" cannot get path "/metrics"')


async def test_no_or_bad_credentials_are_401(server):
    for headers in ({}, bearer("nonsense"), {"Authorization": "Basic eDp5"}, bearer("a.b.c")):
        got = await server.call("GET", "/api/v1/pods", cert="", headers=headers)
        assert (got.status, got.json["reason"]) == (401, "Unauthorized")
    assert (await server.call("GET", "/healthz", cert="", headers=bearer("nonsense"))).status == 401


async def test_service_account_token(server):
    token = await token_for(server)
    me = await whoami(server, cert="", headers=bearer(token))
    assert me["username"] == "system:serviceaccount:default:robot"
    assert "system:serviceaccounts:default" in me["groups"]
    await server.call("DELETE", f"{SA}/robot")
    got = await server.call("GET", "/api", cert="", headers=bearer(token))
    assert got.status == 401


async def test_recreated_account_does_not_revive_old_tokens(server):
    token = await token_for(server)
    await server.call("DELETE", f"{SA}/robot")
    await token_for(server)
    assert (await server.call("GET", "/api", cert="", headers=bearer(token))).status == 401


async def test_token_for_somebody_else_is_refused(server):
    token = await token_for(server, audiences=["vault"])
    assert (await server.call("GET", "/api", cert="", headers=bearer(token))).status == 401
    body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    got = await server.call("POST", path, body | {"spec": {"token": token, "audiences": ["vault"]}})
    assert got.json["status"]["authenticated"] is True
    got = await server.call("POST", path, body | {"spec": {"token": token}})
    assert got.json["status"]["authenticated"] is False


async def test_nodes_get_only_tokens_of_their_pods(server):
    await token_for(server)
    got = await server.call("POST", f"{SA}/robot/token", {"spec": {}}, cert="m1")
    assert got.status == 403
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}
    pod["spec"] = {"serviceAccountName": "robot", "containers": [{"name": "c", "image": "x"}]}
    await server.create("/api/v1/namespaces/default/pods", pod)
    ref = {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}}
    got = await server.call("POST", f"{SA}/robot/token", ref, cert="m1")
    assert got.status == 403
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "m1"}}
    await server.create("/api/v1/nodes", node)
    bind = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "m1"}}
    got = await server.call("POST", "/api/v1/namespaces/default/pods/p/binding", bind)
    assert (got.status, got.json["status"]) == (201, "Success")
    got = await server.call("POST", f"{SA}/robot/token", ref, cert="m1")
    assert got.status == 201, got.body
    token = got.json["status"]["token"]
    me = await whoami(server, cert="", headers=bearer(token))
    assert me["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    await server.call("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0")
    assert (await server.call("GET", "/api", cert="", headers=bearer(token))).status == 401


async def test_a_token_kept_in_a_secret_lives_as_long_as_the_secret_holds_it(server, pki):
    account = await server.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "robot"}})
    signer = TokenSigner(pki.path("sa.key"), ISSUER, lambda: 1000.0)
    token = signer.sign_secret("default", "robot", account["metadata"]["uid"], "kept")
    assert (await server.call("GET", "/api", cert="", headers=bearer(token))).status == 401
    secret = {"metadata": {"name": "kept"}, "stringData": {"token": token}}
    await server.create("/api/v1/namespaces/default/secrets", secret)
    me = await whoami(server, cert="", headers=bearer(token))
    assert me["username"] == "system:serviceaccount:default:robot"
    path = "/api/v1/namespaces/default/secrets/kept"
    patch = {"headers": {"Content-Type": "application/merge-patch+json"}}
    assert (await server.call("PATCH", path, {"stringData": {"token": "another"}}, **patch)).status == 200
    assert (await server.call("GET", "/api", cert="", headers=bearer(token))).status == 401


async def test_access_reviews(server):
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    body["spec"] = {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}
    assert (await server.call("POST", path, body)).json["status"]["allowed"] is True
    got = await server.call("POST", path, body, cert="alice")
    assert got.status == 201, got.body
    assert got.json["status"]["allowed"] is False
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    other = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    other["spec"] = {
        "user": "bob",
        "groups": ["system:masters"],
        "nonResourceAttributes": {"verb": "get", "path": "/x"},
    }
    assert (await server.call("POST", path, other)).json["status"]["allowed"] is True
    rules = {
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"namespace": "default"},
    }
    got = await server.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules)
    assert {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]} in got.json["status"]["resourceRules"]


async def test_rbac_through_the_edge(server):
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    role = {"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader"}}
    role["rules"] = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]
    await server.create(f"{rbac}/namespaces/default/roles", role)
    bind = {"kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader"}}
    bind["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    bind["subjects"] = [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "dev"}]
    await server.create(f"{rbac}/namespaces/default/rolebindings", bind)
    for _ in range(200):
        got = await server.call("GET", "/api/v1/namespaces/default/configmaps", cert="alice")
        if got.status == 200:
            break
    assert got.status == 200
    assert (await server.call("GET", "/api/v1/configmaps", cert="alice")).status == 403
    assert (await server.call("DELETE", "/api/v1/namespaces/default/configmaps/x", cert="alice")).status == 403


async def test_impersonation(server):
    me = await whoami(server, headers={"Impersonate-User": "bob", "Impersonate-Group": "ops"})
    assert (me["username"], me["groups"]) == ("bob", ["ops", "system:authenticated"])
    got = await server.call("GET", "/api/v1/pods", cert="alice", headers={"Impersonate-User": "admin"})
    assert got.status == 403
    assert 'cannot impersonate resource "users"' in got.json["message"]
    got = await server.call("GET", "/api/v1/pods", headers={"Impersonate-Group": "x"})
    assert got.status == 400


async def test_static_tokens(pki, tmp_path):
    file = tmp_path / "tokens.csv"
    file.write_text('s3cret,carol,42,"system:masters,x"\n')
    async with edge(pki, token_auth_file=str(file)) as server:
        assert (await whoami(server, cert="", headers=bearer("s3cret")))["username"] == "carol"


def test_token_lifetime_and_keys(pki, tmp_path):
    now = [1000.0]
    signer = TokenSigner(pki.path("sa.key"), ISSUER, lambda: now[0])
    verifier = TokenVerifier([pki.path("sa.pub")], ISSUER, [ISSUER], lambda: now[0])
    token, expires = signer.sign("ns", "sa", "u1", audiences=[ISSUER], seconds=600)
    assert expires == 1600
    claims = verifier.verify(token)
    assert (claims.namespace, claims.name, claims.uid) == ("ns", "sa", "u1")
    now[0] = 1600
    with pytest.raises(InvalidToken):
        verifier.verify(token)
    other = TokenVerifier([pki.path("sa.pub")], "https://elsewhere", [ISSUER], lambda: 1000.0)
    with pytest.raises(InvalidToken):
        other.verify(token)
    forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    with pytest.raises(InvalidToken):
        verifier.verify(forged)
    assert dataclasses.is_dataclass(claims)
