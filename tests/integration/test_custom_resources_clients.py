"""Operators and clients that know nothing of sk8: kopf, and the official client's dynamic module, on custom resources.

The API server runs over the in-memory store, with the controllers that custom resources need.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apiserver_harness import Edge, Pki
from tests.support.custom_world import crontab, crontab_definition, custom_edge, established, until
from tests.support.kubeconfig import write_kubeconfig

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")
kopf = pytest.importorskip("kopf", reason="`make bootstrap` installs it")

OPERATOR = Path(__file__).parents[2] / "infra/examples/operator"
GREETINGS = "/apis/example.com/v1/namespaces/default/greetings"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: Any) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def world(pki: Pki) -> AsyncIterator[Edge]:
    async with custom_edge(pki) as running:
        yield running


async def test_a_kopf_operator_runs_unmodified(world: Edge, tmp_path: Path) -> None:
    await established(world, yaml.safe_load((OPERATOR / "crd.yaml").read_text()))
    env = {**os.environ, "KUBECONFIG": str(write_kubeconfig(world, tmp_path / "kubeconfig")), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "kopf", "run", "--all-namespaces", "--standalone", str(OPERATOR / "operator.py")]
    log = (tmp_path / "operator.log").open("wb")
    operator = await asyncio.create_subprocess_exec(*command, env=env, stdout=log, stderr=log)
    try:
        made = await world.create(GREETINGS, yaml.safe_load((OPERATOR / "example.yaml").read_text()))
        config = "/api/v1/namespaces/default/configmaps/greeting-morning"
        found = await until(world, config, lambda o: o["data"] == {"text": "Hello, world!"})
        assert found["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
        shown = await until(world, GREETINGS + "/morning", lambda o: o.get("status", {}).get("text") == "Hello, world!")
        assert shown["metadata"]["finalizers"] == ["kopf.zalando.org/KopfFinalizerMarker"]
        headers = {"Content-Type": "application/merge-patch+json"}
        changed = await world.call("PATCH", GREETINGS + "/morning", {"spec": {"whom": "moon"}}, headers=headers)
        assert changed.status == 200
        await until(world, config, lambda o: o["data"] == {"text": "Hello, moon!"})
        await world.call("DELETE", GREETINGS + "/morning")
        await until(world, GREETINGS + "/morning", lambda o: True, code=404)
        await until(world, config, lambda o: True, code=404)
    except TimeoutError:
        raise AssertionError((tmp_path / "operator.log").read_text()[-4000:]) from None
    finally:
        log.close()
        if operator.returncode is None:
            operator.terminate()
        await asyncio.wait_for(operator.wait(), 20)


async def test_the_dynamic_client(world: Edge, tmp_path: Path) -> None:
    from kubernetes import config, dynamic

    await established(world, crontab_definition())
    path = str(write_kubeconfig(world, tmp_path / "kubeconfig"))

    def use() -> None:
        with config.new_client_from_config(path) as api:
            work(dynamic.DynamicClient(api, cache_file=str(tmp_path / "discovery.json")))

    def work(client: Any) -> None:
        resource = client.resources.get(api_version="stable.example.com/v1", kind="CronTab")
        made = resource.create(body=crontab(), namespace="default")
        assert made.spec.image == "busybox"
        patch = {"spec": {"replicas": 3}}
        changed = resource.patch(
            name="one", namespace="default", body=patch, content_type="application/merge-patch+json"
        )
        assert changed.spec.replicas == 3
        applied = resource.server_side_apply(
            body=crontab(color="red"), name="one", namespace="default", field_manager="me", force_conflicts=True
        )
        assert applied.spec.color == "red"
        assert [i.metadata.name for i in resource.get(namespace="default").items] == ["one"]
        events = resource.watch(namespace="default", timeout=1)
        assert [e["type"] for e in events] == ["ADDED"]
        status = resource.status.patch(
            name="one",
            namespace="default",
            body={"status": {"phase": "Up"}},
            content_type="application/merge-patch+json",
        )
        assert status.status.phase == "Up"
        resource.delete(name="one", namespace="default")

    await asyncio.to_thread(use)
