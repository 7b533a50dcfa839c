"""The edge over HTTPS: verbs, options, forms, and what goes wrong."""

import asyncio
import gzip
import io
import threading

import orjson
import pytest
import yaml

from cluster.apiserver.call import read_patch
from tests.support.apiserver_harness import edge

CM = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def config_map(name: str, **labels: str) -> dict:
    meta = {"name": name, "labels": labels}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": {"k": "v"}}


@pytest.fixture
async def server(pki):
    async with edge(pki) as running:
        yield running


async def test_life_of_an_object(server):
    made = await server.create(CM, config_map("a"))
    got = await server.call("GET", f"{CM}/a")
    assert got.status == 200
    assert got.json == made
    assert got.headers["Audit-Id"]
    made["data"] = {"k": "w"}
    put = await server.call("PUT", f"{CM}/a", made)
    assert put.status == 200
    assert put.json["metadata"]["resourceVersion"] > made["metadata"]["resourceVersion"]
    stale = await server.call("PUT", f"{CM}/a", made)
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")
    patched = await server.call(
        "PATCH", f"{CM}/a", {"data": {"z": "1"}}, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert patched.json["data"] == {"k": "w", "z": "1"}
    gone = await server.call("DELETE", f"{CM}/a")
    assert (gone.status, gone.json["status"], gone.json["details"]["name"]) == (200, "Success", "a")
    missing = await server.call("GET", f"{CM}/a")
    assert (missing.status, missing.json["reason"]) == (404, "NotFound")
    assert missing.json["message"] == 'configmaps "a" not found'


async def test_an_update_takes_the_namespace_of_its_url(server):
    """Clients send back the object that they created, without what the server added."""
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}}
    await server.create(CM, mine)
    put = await server.call("PUT", f"{CM}/a", {**mine, "data": {"k": "2"}})
    assert put.status == 200 and put.json["metadata"]["namespace"] == "default" and put.json["data"] == {"k": "2"}
    elsewhere = {**mine, "metadata": {"name": "a", "namespace": "other"}}
    assert (await server.call("PUT", f"{CM}/a", elsewhere)).status == 400


async def test_list_is_linearizable_and_pages_are_of_one_revision(server):
    for i in range(7):
        await server.create(CM, config_map(f"c{i}"))
    first = await server.call("GET", f"{CM}?limit=3")
    meta = first.json["metadata"]
    assert [o["metadata"]["name"] for o in first.json["items"]] == ["c0", "c1", "c2"]
    assert meta["remainingItemCount"] >= 4
    await server.create(CM, config_map("c3x"))
    names, token = [], meta["continue"]
    while token:
        page = await server.call("GET", f"{CM}?limit=3&continue={token}")
        assert page.status == 200, page.body
        assert page.json["metadata"]["resourceVersion"] == meta["resourceVersion"]
        names += [o["metadata"]["name"] for o in page.json["items"]]
        token = page.json["metadata"].get("continue")
    assert "c3x" not in names
    assert names[:4] == ["c3", "c4", "c5", "c6"]
    whole = await server.call("GET", CM)
    assert "c3x" in [o["metadata"]["name"] for o in whole.json["items"]]
    assert whole.json["kind"] == "ConfigMapList"


async def test_selectors_and_versions(server):
    await server.create(CM, config_map("x", app="web"))
    await server.create(CM, config_map("y", app="db"))
    got = await server.call("GET", f"{CM}?labelSelector=app%3Dweb")
    assert [o["metadata"]["name"] for o in got.json["items"]] == ["x"]
    got = await server.call("GET", f"{CM}?fieldSelector=metadata.name%3Dy")
    assert [o["metadata"]["name"] for o in got.json["items"]] == ["y"]
    got = await server.call("GET", f"{CM}?resourceVersion=0")
    assert got.status == 200
    got = await server.call("GET", f"{CM}?resourceVersion=99999999")
    assert (got.status, got.json["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
    got = await server.call("GET", f"{CM}?labelSelector=a%3D%3D%3D%2Cb%20in")
    assert got.status == 400
    got = await server.call("GET", f"{CM}?resourceVersion=x")
    assert got.status == 400


async def test_an_object_comes_in_the_form_that_is_asked_for(server):
    await server.create(CM, config_map("a"))
    got = await server.call("GET", f"{CM}?fieldSelector=metadata.name%3Da", headers=TABLE)
    assert got.headers["Content-Type"].startswith("application/json;as=Table")
    assert got.json["kind"] == "Table"
    assert [c["name"] for c in got.json["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert got.json["rows"][0]["cells"][:2] == ["a", 1]
    assert got.json["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "data" not in got.json["rows"][0]["object"]
    got = await server.call("GET", f"{CM}/a", headers={"Accept": "application/yaml"})
    assert yaml.safe_load(got.body)["data"] == {"k": "v"}
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    got = await server.call("GET", CM, headers=partial)
    assert got.json["kind"] == "PartialObjectMetadataList"
    got = await server.call("GET", CM, headers={"Accept": "application/vnd.kubernetes.protobuf"})
    assert got.status == 406
    got = await server.call("GET", CM, headers={"Accept": "application/vnd.kubernetes.protobuf,application/json"})
    assert got.json["kind"] == "ConfigMapList"
    got = await server.call("GET", CM, headers={"User-Agent": "curl/8.5.0"})
    assert got.body.startswith(b'{\n  "kind": "ConfigMapList"')
    got = await server.call("GET", CM, headers={"User-Agent": "Mozilla/5.0", "Sec-Fetch-Mode": "cors"})
    assert b"\n" not in got.body
    got = await server.call("GET", f"{CM}/a?pretty=true")
    assert b"\n  " in got.body


async def test_long_yaml_is_read_beside_the_loop() -> None:
    """Regression: two megabytes of short lines held up everybody for seconds."""
    answered = threading.Event()

    def parse(raw: bytes, media_type: str) -> bytes:
        assert answered.wait(60), "the loop is held up"
        return raw

    raw = b"a: b\n" * 10_000
    reading = asyncio.create_task(read_patch(raw, parse, "application/apply-patch+yaml"))
    await asyncio.sleep(0)
    answered.set()
    assert await reading == raw


async def test_a_large_answer_is_whole(server):
    """It leaves in slices."""
    path = "/api/v1/namespaces/default/configmaps"
    for i in range(3):
        await server.create(path, {"metadata": {"name": f"large-{i}"}, "data": {"x": f"{i}" * 300_000}})
    plain = {"Accept-Encoding": "identity"}
    got = await server.call("GET", path, headers=plain)
    assert len(got.body) == int(got.headers["Content-Length"]) > 900_000
    found = {o["metadata"]["name"]: o["data"]["x"] for o in got.json["items"] if "large" in o["metadata"]["name"]}
    assert found == {f"large-{i}": f"{i}" * 300_000 for i in range(3)}
    head = await server.call("HEAD", path, headers=plain)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(got.body)))
    assert (await server.call("GET", path + "/large-1")).json["data"]["x"] == "1" * 300_000


async def test_yaml_bodies_and_large_lists_are_compressed(pki):
    async with edge(pki, gzip_min_bytes=1000) as server:
        body = (
            b"kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: y\ndata:\n  when: 2024-01-01\n  big: " + b"x" * 2000
        )
        got = await server.call("POST", CM, data=body, headers={"Content-Type": "application/yaml"})
        assert got.status == 400 or got.status == 201, got.body
        quoted = body.replace(b"2024-01-01", b'"2024-01-01"')
        if got.status == 400:
            got = await server.call("POST", CM, data=quoted, headers={"Content-Type": "application/yaml"})
        assert (got.status, got.json["data"]["when"]) == (201, "2024-01-01")
        context = pki.client_context("admin")
        headers = {"Accept-Encoding": "gzip"}
        async with server.session.get(server.url + CM, ssl=context, headers=headers) as r:
            assert r.headers["Content-Encoding"] == "gzip"
            assert orjson.loads(await r.read())["kind"] == "ConfigMapList"


@pytest.mark.parametrize(
    ("method", "path", "data", "content_type", "code", "reason"),
    [
        ("POST", CM, b"{", "application/json", 400, "BadRequest"),
        ("POST", CM, b"[]", "application/json", 400, "BadRequest"),
        ("POST", CM, b"{}", "text/plain", 415, "UnsupportedMediaType"),
        ("POST", CM, b"a: &a [1]\nb: *a\n", "application/yaml", 400, "BadRequest"),
        ("POST", CM, b"x" * (3 * 1024 * 1024 + 1), "application/json", 413, "RequestEntityTooLarge"),
        ("PATCH", CM + "/a", b"{}", "application/json", 415, "UnsupportedMediaType"),
        ("GET", "/api/v1/namespaces/default/../secrets", b"", "", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/configmaps/a%2Fb", b"", "", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/unicorns", b"", "", 404, "NotFound"),
        ("GET", "/apis/nothing.example/v1/things", b"", "", 404, "NotFound"),
        ("GET", "/nonsense", b"", "", 404, "NotFound"),
        ("POST", "/api/v1/configmaps", b"{}", "application/json", 405, "MethodNotAllowed"),
        ("PUT", CM, b"{}", "application/json", 405, "MethodNotAllowed"),
        ("OPTIONS", CM, b"", "", 405, "MethodNotAllowed"),
        ("GET", "/api/v1/namespaces/default/nodes/x", b"", "", 404, "NotFound"),
        ("GET", CM + "/a/unknown", b"", "", 404, "NotFound"),
        ("POST", CM, b'{"a":' * 400 + b"1" + b"}" * 400, "application/json", 400, "BadRequest"),
        ("PATCH", CM + "/a", b'{"a":' * 400 + b"1" + b"}" * 400, "application/merge-patch+json", 400, "BadRequest"),
        ("POST", CM, gzip.compress(b'{"metadata":{"name":"z"}}', mtime=0), "application/json", 400, "BadRequest"),
        ("GET", CM + "?resourceVersion=" + "9" * 5000, b"", "", 400, "BadRequest"),
        ("GET", CM + "?resourceVersion=%D9%A1", b"", "", 400, "BadRequest"),
        ("GET", CM + "?limit=" + "9" * 5000, b"", "", 400, "BadRequest"),
        ("GET", CM + "?limit=1_0", b"", "", 400, "BadRequest"),
        ("GET", CM + "?watch=1&timeoutSeconds=%D9%A1", b"", "", 400, "BadRequest"),
        ("GET", CM + "?limit=x", b"", "", 400, "BadRequest"),
        ("POST", CM + "?dryRun=Some", b"{}", "application/json", 422, "Invalid"),
    ],
)
async def test_what_is_wrong_has_a_status(server, method, path, data, content_type, code, reason):
    headers = {"Content-Type": content_type} if content_type else {}
    if data.startswith(b"\x1f\x8b"):  # gzip, said to be: bodies are read as they are
        headers["Content-Encoding"] = "gzip"
    body = io.BytesIO(data) if len(data) > 1_000_000 else data
    got = await server.call(method, path, data=body, headers=headers)
    assert (got.status, got.json["kind"], got.json["reason"]) == (code, "Status", reason)
    assert b"Traceback" not in got.body


async def test_what_cannot_be_read_is_told_with_the_kind_it_should_be(server):
    got = await server.call("PUT", f"{CM}/c", data=b"kind: ConfigMap", headers={"Content-Type": "application/json"})
    assert got.json["message"].startswith("the object provided is unrecognized (must be of type ConfigMap): ")
    assert got.json["message"].endswith(f"({b'kind: ConfigMap'.hex()})")


async def test_dry_run_and_warnings(server):
    got = await server.call("POST", f"{CM}?dryRun=All", config_map("ghost"))
    assert got.status == 201
    assert (await server.call("GET", f"{CM}/ghost")).status == 404
    body = config_map("w") | {"unknownField": 1}
    got = await server.call("POST", CM, body)
    assert got.status == 201
    assert (
        got.headers.getall("Warning")[0].startswith('299 - "unknown field "')
        or "unknown field" in got.headers["Warning"]
    )
    got = await server.call("POST", f"{CM}?fieldValidation=Strict", config_map("s") | {"unknownField": 1})
    assert (got.status, got.json["reason"]) == (400, "BadRequest")


async def test_deletecollection(server):
    for i in range(3):
        await server.create(CM, config_map(f"d{i}", app="x"))
    await server.create(CM, config_map("keep"))
    got = await server.call("DELETE", f"{CM}?labelSelector=app%3Dx")
    assert got.status == 200
    left = await server.call("GET", CM)
    names = [o["metadata"]["name"] for o in left.json["items"]]
    assert "keep" in names and not any(n.startswith("d") for n in names)


async def test_unknown_outcome_is_504(server):
    server.store.fail = "outcome_unknown"
    got = await server.call("POST", CM, config_map("u"))
    assert (got.status, got.json["reason"]) == (504, "Timeout")


FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"


def _rejecting_level(name, user):
    """A priority level of one seat that does not queue, and the FlowSchema that sends `user` there."""
    limited = {"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    rules = [
        {
            "subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["configmaps"], "namespaces": ["*"]},
            ],
        }
    ]
    schema = {"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 1, "rules": rules}
    level = {"metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}}
    return level, {"metadata": {"name": "0-" + name}, "spec": schema}


async def test_requests_go_through_the_priority_level_that_their_flow_schema_names(pki):
    async with edge(pki, max_requests_inflight=40, max_mutating_requests_inflight=20) as server:
        level, schema = _rejecting_level("narrow", "admin")
        level = await server.create(f"{FLOW}/prioritylevelconfigurations", level)
        schema = await server.create(f"{FLOW}/flowschemas", schema)
        wanted = {
            "X-Kubernetes-PF-FlowSchema-UID": schema["metadata"]["uid"],
            "X-Kubernetes-PF-PriorityLevel-UID": level["metadata"]["uid"],
        }
        async with asyncio.timeout(30):
            while not wanted.items() <= (await server.call("GET", CM)).headers.items():
                await asyncio.sleep(0.01)
        held = asyncio.Event()
        release = asyncio.Event()
        real = server.store.txn

        async def slow(*args, **kwargs):
            held.set()
            await release.wait()
            return await real(*args, **kwargs)

        server.store.txn = slow
        first = asyncio.create_task(server.call("POST", CM, config_map("one")))
        await held.wait()
        got = await server.call("POST", CM, config_map("two"))
        assert (got.status, got.headers["Retry-After"]) == (429, "1")
        assert got.headers["X-Kubernetes-PF-PriorityLevel-UID"] == level["metadata"]["uid"]
        other = await server.call("GET", "/api/v1/namespaces/default/secrets")  # of another level
        assert other.status == 200
        metrics = (await server.call("GET", "/metrics")).body.decode()
        assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="narrow"} 1.0' in metrics
        refused = 'flow_schema="0-narrow",priority_level="narrow",reason="concurrency-limit"'
        assert f"apiserver_flowcontrol_rejected_requests_total{{{refused}}} 1.0" in metrics
        release.set()
        assert (await first).status == 201


async def test_the_mandatory_objects_stay_and_a_schema_without_its_level_says_so(pki):
    async with edge(pki) as server:
        _, schema = _rejecting_level("nowhere", "admin")
        schema["metadata"]["name"] = "lost"
        await server.create(f"{FLOW}/flowschemas", schema)
        await server.call("DELETE", f"{FLOW}/flowschemas/catch-all")
        patch = {"Content-Type": "application/merge-patch+json"}
        body = {"spec": {"matchingPrecedence": 7}}
        await server.call("PATCH", f"{FLOW}/flowschemas/exempt", data=orjson.dumps(body), headers=patch)
        async with asyncio.timeout(30):
            while True:
                found = await server.call("GET", f"{FLOW}/flowschemas")
                by_name = {o["metadata"]["name"]: o for o in found.json["items"]}
                told = by_name["lost"].get("status", {}).get("conditions", [])
                if "catch-all" in by_name and by_name["exempt"]["spec"]["matchingPrecedence"] == 1 and told:
                    break
                await asyncio.sleep(0.01)
        assert (told[0]["type"], told[0]["status"], told[0]["reason"]) == ("Dangling", "True", "NotFound")
        assert len(by_name) == 14


async def test_health_version_metrics_and_discovery(server):
    assert (await server.call("GET", "/readyz", cert="")).body == b"ok"
    assert b"[+]etcd ok" in (await server.call("GET", "/readyz?verbose", cert="")).body
    assert (await server.call("GET", "/livez/ping", cert="")).body == b"ok"
    assert (await server.call("GET", "/version", cert="")).json["gitVersion"] == "v1.34.0+sk8"
    assert (await server.call("GET", "/metrics", cert="")).status == 401
    metrics = await server.call("GET", "/metrics")
    assert b"apiserver_request_total" in metrics.body
    legacy = await server.call("GET", "/api/v1")
    assert "pods/log" in [r["name"] for r in legacy.json["resources"]]
    v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    groups = await server.call("GET", "/apis", headers={"Accept": v2 + ",application/json"})
    assert groups.json["kind"] == "APIGroupDiscoveryList"
    again = await server.call("GET", "/apis", headers={"Accept": v2, "If-None-Match": groups.headers["ETag"]})
    assert again.status == 304
    assert orjson.loads((await server.call("GET", "/openid/v1/jwks")).body)["keys"][0]["kty"] == "RSA"


WRONG_TWICE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: twice}
data:
  a: b
  a: c
"""


async def test_what_is_unknown_and_what_is_said_twice_are_told_together(server):
    body = b'{"metadata": {"name": "u", "extra": 1}, "data": {"a": "b", "a": "c"}}'
    json = {"Content-Type": "application/json"}
    got = await server.call("POST", f"{CM}?fieldValidation=Strict", data=body, headers=json)
    wanted = 'strict decoding error: unknown field "metadata.extra", duplicate field "data.a"'
    assert got.status == 400 and wanted in got.json["message"]
    got = await server.call("POST", CM, data=body, headers=json)
    assert got.status == 201
    assert got.headers.getall("Warning") == [
        '299 - "unknown field \\"metadata.extra\\""',
        '299 - "duplicate field \\"data.a\\""',
    ]


async def test_what_an_eviction_says_twice_is_told_once(server):
    await server.call("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    pod = {"metadata": {"name": "e"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    await server.create("/api/v1/namespaces/default/pods", pod)
    body = b'{"metadata": {"name": "e", "extra": 1}, "deleteOptions": {"dryRun": [], "dryRun": []}}'
    path, json = "/api/v1/namespaces/default/pods/e/eviction", {"Content-Type": "application/json"}
    got = await server.call("POST", path, data=body, headers=json)
    assert got.status == 201 and got.headers.getall("Warning") == [
        '299 - "unknown field \\"metadata.extra\\""',
        '299 - "duplicate field \\"deleteOptions.dryRun\\""',
    ]


async def test_warnings_fit_into_headers_whatever_a_client_calls_its_fields(server):
    """Regression: a control character in a field's name, or too many unknown fields, broke the answer of a write that
    had been done."""
    got = await server.call("POST", CM, {"metadata": {"name": "odd"}, "a\x00\tb\n": 1})
    assert (got.status, got.headers["Warning"]) == (201, '299 - "unknown field \\"a\\\\x00\\\\x09b \\""')
    many = {f"{'x' * 100}{i}": 1 for i in range(1000)}
    got = await server.call("POST", CM, {"metadata": {"name": "many"}, **many})
    assert got.status == 201 and sum(map(len, got.headers.getall("Warning"))) < 5000


async def test_an_apply_patch_names_only_fields_that_there_are(server):
    async def applied(text, validation):
        path = f"{CM}/twice?fieldManager=m&fieldValidation={validation}"
        return await server.call(
            "PATCH", path, data=text.encode(), headers={"Content-Type": "application/apply-patch+yaml"}
        )

    got = await applied(WRONG_TWICE + "more: 1\n", "Ignore")
    assert got.status == 400
    where = "failed to create typed patch object (default/twice; v1, Kind=ConfigMap)"
    assert got.json["message"] == f"{where}: .more: field not declared in schema"
    got = await applied(WRONG_TWICE, "Strict")
    assert got.status == 400 and 'line 7: key "a" already set in map' in got.json["message"]
    got = await applied(WRONG_TWICE, "Warn")
    assert (got.status, got.headers["Warning"]) == (201, '299 - "line 7: key \\"a\\" already set in map"')


async def test_a_list_whose_revision_is_gone_goes_on_with_what_there_is(server):
    for name in ("aa1", "aa2", "aa3"):
        await server.create(CM, config_map(name))
    first = await server.call("GET", f"{CM}?limit=1")
    await server.create(CM, config_map("aa4"))
    await server.store.compact(server.store.revision)
    token = first.json["metadata"]["continue"]
    expired = await server.call("GET", f"{CM}?limit=2&continue={token}")
    assert (expired.status, expired.json["reason"]) == (410, "Expired")
    token = expired.json["metadata"]["continue"]
    rest = (await server.call("GET", f"{CM}?limit=2&continue={token}")).json
    assert [o["metadata"]["name"] for o in rest["items"]] == ["aa2", "aa3"]
    assert rest["metadata"]["resourceVersion"] > first.json["metadata"]["resourceVersion"]
    last = (await server.call("GET", f"{CM}?limit=500&continue={rest['metadata']['continue']}")).json
    assert last["metadata"]["resourceVersion"] == rest["metadata"]["resourceVersion"]
    assert "aa4" in [o["metadata"]["name"] for o in last["items"]]


async def test_a_review_has_no_table(server):
    review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    path, table = (
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
    )
    assert (await server.call("POST", path, review, headers={"Accept": table})).status == 406
    got = await server.call("POST", path, review, headers={"Accept": table + ",application/json"})
    assert (got.status, got.json["kind"]) == (201, "SelfSubjectAccessReview")


async def test_discovery_tells_the_storage_version_apart(server):
    served = (await server.call("GET", "/apis/autoscaling/v1")).json["resources"]
    stored = (await server.call("GET", "/apis/autoscaling/v2")).json["resources"]
    assert served[0]["storageVersionHash"] == stored[0]["storageVersionHash"]
    assert "storageVersionHash" not in served[1]  # a subresource


async def test_openapi(server):
    index = await server.call("GET", "/openapi/v3")
    assert "apis/apps/v1" in index.json["paths"]
    url = index.json["paths"]["apis/apps/v1"]["serverRelativeURL"]
    doc = await server.call("GET", url)
    assert doc.json["openapi"].startswith("3.")
    assert any(k.endswith("Deployment") for k in doc.json["components"]["schemas"])
    assert (await server.call("GET", "/openapi/v3/apis/no/v1")).status == 404
