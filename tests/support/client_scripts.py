"""What client libraries do on an ordinary day, each in a process of its own: `client_scripts.py <which> <kubeconfig>`.

The libraries are used as their users do, unmodified; a step that fails raises.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def official(kubeconfig: str) -> None:
    from kubernetes import client, config, utils, watch

    config.load_kube_config(kubeconfig)
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    meta = client.V1ObjectMeta(generate_name="x-", labels={"by": "official"})
    made = core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=meta, data={"a": "b"}))
    name = made.metadata.name
    assert core.patch_namespaced_config_map(name, "default", {"data": {"c": "d"}}).data == {"a": "b", "c": "d"}
    made = core.read_namespaced_config_map(name, "default")
    made.data = {"e": "f"}
    core.replace_namespaced_config_map(name, "default", made)
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, "default", label_selector="by=official", timeout_seconds=5
    )
    event = next(iter(stream))
    assert (event["type"], event["object"].data) == ("ADDED", {"e": "f"})
    first = core.list_namespaced_config_map("default", limit=1)
    assert len(first.items) == 1
    core.delete_namespaced_config_map(name, "default")
    try:
        core.read_namespaced_config_map(name, "default")
        raise AssertionError("it is still there")
    except client.ApiException as e:
        assert e.status == 404
    spec = {"spec": {"containers": [{"name": "c", "image": "x"}]}, "metadata": {"labels": {"a": "b"}}}
    body: Any = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": spec}}
    apps.create_namespaced_deployment("default", body)
    assert apps.patch_namespaced_deployment_scale("d", "default", {"spec": {"replicas": 3}}).spec.replicas == 3
    service = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    utils.create_from_dict(client.ApiClient(), service, namespace="default")
    attributes = client.V1ResourceAttributes(verb="get", resource="pods")
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
    for listing in (
        client.AutoscalingV1Api().list_namespaced_horizontal_pod_autoscaler,
        client.EventsV1Api().list_namespaced_event,
        client.NetworkingV1Api().list_namespaced_ingress,
        client.BatchV1Api().list_namespaced_job,
    ):
        listing("default")
    assert client.VersionApi().get_code().major == "1"


def dynamic(kubeconfig: str) -> None:
    from kubernetes import client, config
    from kubernetes.dynamic import DynamicClient

    config.load_kube_config(kubeconfig)
    dyn = DynamicClient(client.ApiClient())
    maps = dyn.resources.get(api_version="v1", kind="ConfigMap")
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "dyn"}, "data": {"x": "y"}}
    maps.create(namespace="default", body=body)
    applied = maps.server_side_apply(
        namespace="default", name="dyn", body={**body, "data": {"x": "z"}}, field_manager="t", force_conflicts=True
    )
    assert applied.data.x == "z"
    events = maps.watch(namespace="default", name="dyn", timeout=5)
    assert next(iter(events))["object"].metadata.name == "dyn"
    maps.delete(namespace="default", name="dyn")
    assert dyn.resources.get(api_version="apps/v1", kind="Deployment").get(namespace="default").items == []


def kr8s(kubeconfig: str) -> None:
    import kr8s
    from kr8s.objects import ConfigMap

    api = kr8s.api(kubeconfig=kubeconfig)
    assert api.version()["major"] == "1"
    assert any(r["kind"] == "Deployment" for r in api.api_resources())
    made = ConfigMap({"metadata": {"name": "kr", "namespace": "default"}, "data": {"a": "b"}}, api=api)
    made.create()
    made.patch({"data": {"c": "d"}})
    made.label({"seen": "yes"})
    made.refresh()
    assert (dict(made.data), made.labels["seen"]) == ({"a": "b", "c": "d"}, "yes")
    assert [o.name for o in api.get("configmaps", namespace="default", label_selector={"seen": "yes"})] == ["kr"]
    made.delete()
    assert not made.exists()


def lightkube(kubeconfig: str) -> None:
    from lightkube import ApiError, Client, KubeConfig
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap, Namespace

    client = Client(config=KubeConfig.from_file(kubeconfig).get(), field_manager="lk")
    assert "default" in [n.metadata.name for n in client.list(Namespace)]
    meta = ObjectMeta(name="lk", namespace="default")
    client.create(ConfigMap(metadata=meta, data={"a": "b"}))
    assert client.patch(ConfigMap, "lk", {"data": {"z": "1"}}).data == {"a": "b", "z": "1"}
    client.replace(client.get(ConfigMap, "lk"))
    applied = client.apply(ConfigMap(metadata=ObjectMeta(name="lk2", namespace="default"), data={"k": "v"}))
    assert applied.metadata.managedFields[0].operation == "Apply"
    kind, found = next(iter(client.watch(ConfigMap, server_timeout=5, resource_version="0")))
    assert kind == "ADDED" and found.metadata.name
    client.delete(ConfigMap, "lk")
    client.deletecollection(ConfigMap)
    try:
        client.get(ConfigMap, "lk2")
        raise AssertionError("it is still there")
    except ApiError as e:
        assert e.status.code == 404


def aio(kubeconfig: str) -> None:
    import kubernetes_asyncio as k8s

    async def day() -> None:
        await k8s.config.load_kube_config(kubeconfig)
        async with k8s.client.ApiClient() as api:
            core = k8s.client.CoreV1Api(api)
            meta = k8s.client.V1ObjectMeta(name="aio")
            await core.create_namespaced_config_map("default", k8s.client.V1ConfigMap(metadata=meta, data={"a": "b"}))
            async with k8s.watch.Watch() as watch:
                async for event in watch.stream(core.list_namespaced_config_map, "default", timeout_seconds=5):
                    assert event["object"].metadata.name == "aio"
                    break
            await core.delete_namespaced_config_map("aio", "default")
            assert (await core.list_namespaced_config_map("default")).items == []

    asyncio.run(day())


def streams(kubeconfig: str) -> None:
    """Needs a running pod `s` whose container `app` echoes lines of its input and serves port 8080."""
    from kubernetes import client, config
    from kubernetes.stream import portforward, stream

    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()
    asked = {"stderr": True, "stdin": False, "stdout": True, "tty": False}
    assert stream(core.connect_get_namespaced_pod_exec, "s", "default", command=["echo", "out"], **asked) == "out\n"
    asked |= {"stdin": True, "_preload_content": False}
    command = ["sh", "-c", "read line; echo got $line; echo oops >&2; exit 3"]
    shell = stream(core.connect_get_namespaced_pod_exec, "s", "default", command=command, **asked)
    shell.write_stdin("a line\n")
    shell.run_forever(timeout=60)
    assert (shell.read_stdout(), shell.read_stderr(), shell.returncode) == ("got a line\n", "oops\n", 3)
    attached = stream(core.connect_get_namespaced_pod_attach, "s", "default", container="app", **asked)
    attached.write_stdin("hello\n")
    assert attached.readline_stdout(timeout=60) == "got hello"
    attached.close()
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "s", "default", ports="8080")
    socket = forwarded.socket(8080)
    socket.settimeout(60)
    received = b""
    while chunk := socket.recv(4096):
        received += chunk
    socket.close()
    assert received == b"served\n"
    assert forwarded.error(8080) is None
    assert "ready" in core.read_namespaced_pod_log("s", "default")


DAYS = {
    "official": official, "dynamic": dynamic, "kr8s": kr8s, "lightkube": lightkube, "aio": aio, "streams": streams,
}  # fmt: skip

if __name__ == "__main__":
    DAYS[sys.argv[1]](sys.argv[2])
