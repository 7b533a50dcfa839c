"""PodSecurity and LimitRanger in the write path; which plugins run is a setting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry import admissionconfig
from cluster.registry.admissionconfig import AdmissionConfig, AdmissionConfigError
from cluster.registry.types import RegistryConfig
from tests.support.api_errors import refusal

LABEL = "pod-security.kubernetes.io/"


async def _label(bench: Any, **modes: str) -> list[str]:
    bench.ctx.warnings.clear()

    def change(ns: dict[str, Any]) -> dict[str, Any]:
        labels = {LABEL + k.replace("_", "-"): v for k, v in modes.items()}
        return {**ns, "metadata": {**ns["metadata"], "labels": labels}}

    await bench.registry.modify(bench.ctx, SCHEME.named("namespaces"), "", "default", change)
    return list(bench.ctx.warnings)


async def test_a_namespace_enforces_its_level(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod("before", hostNetwork=True))
    await bench.create("pods", make.pod("other", hostNetwork=True))
    assert await _label(bench, enforce="baseline") == [
        'existing pods in namespace "default" violate the new PodSecurity enforce level "baseline:latest"',
        "before (and 1 other pod): host namespaces",
    ]
    e = await refusal(bench.create("pods", make.pod("p", hostPID=True)))
    assert (e.code, e.message) == (
        403,
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)',
    )
    assert bench.ctx.annotations["pod-security.kubernetes.io/enforce-policy"] == "baseline:latest"
    await bench.create("pods", make.pod("plain"))

    def touch(pod: dict[str, Any]) -> dict[str, Any]:
        return {**pod, "metadata": {**pod["metadata"], "labels": {"a": "b"}}}

    await bench.registry.modify(bench.ctx, SCHEME.named("pods"), "default", "before", touch)  # not what it forbids


async def test_templates_are_warned_of_and_created(bench: Any, make: Any) -> None:
    await _label(bench, enforce="restricted")
    bench.ctx.warnings.clear()
    await bench.create("deployments.apps", make.deployment())
    assert len(bench.ctx.warnings) == 1
    assert bench.ctx.warnings[0].startswith('would violate PodSecurity "restricted:latest": allowPrivilegeEscalation')


async def test_labels_nobody_can_read_are_refused(bench: Any) -> None:
    e = await refusal(_label(bench, enforce="strict"))
    assert (e.code, e.message) == (
        422,
        f'Namespace "default" is invalid: metadata.labels[{LABEL}enforce]: Invalid value: "strict": must be one of '
        "privileged, baseline, restricted",
    )


async def test_defaults_and_exemptions_come_from_the_file(bench: Any, make: Any, tmp_path: Any) -> None:
    file = tmp_path / "admission.yaml"
    file.write_text(
        """
        apiVersion: apiserver.config.k8s.io/v1
        kind: AdmissionConfiguration
        plugins:
        - name: PodSecurity
          configuration:
            apiVersion: pod-security.admission.config.k8s.io/v1
            kind: PodSecurityConfiguration
            defaults: {enforce: baseline, enforce-version: v1.30}
            exemptions: {namespaces: [kube-system], usernames: [trusted]}
        """
    )
    registry = bench.another(config=RegistryConfig(admission=admissionconfig.load(str(file))))
    pods, bad = SCHEME.named("pods"), make.pod("p", hostNetwork=True)
    e = await refusal(registry.create(bench.ctx, pods, "default", bad))
    assert 'violates PodSecurity "baseline:v1.30"' in e.message
    await registry.create(bench.ctx, pods, "kube-system", bad)


async def test_plugins_are_switched_off_by_name(bench: Any, make: Any) -> None:
    await _label(bench, enforce="restricted")
    registry = bench.another(config=RegistryConfig(admission=AdmissionConfig(disable=("PodSecurity", "Priority"))))
    made = await registry.create(bench.ctx, SCHEME.named("pods"), "default", make.pod())
    assert "priority" not in made.obj["spec"]
    with pytest.raises(AdmissionConfigError, match='unknown admission plugin "PodSecurtiy"'):
        RegistryConfig(admission=AdmissionConfig(disable=("PodSecurtiy",))).validate()


# --- LimitRanger


def _limits(*items: dict[str, Any], name: str = "l") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"limits": list(items)}}


def _sized(make: Any, name: str, requests: dict[str, str], limits: dict[str, str] | None = None) -> dict[str, Any]:
    resources = {"requests": requests, "limits": limits or {}}
    pod: dict[str, Any] = make.pod(name, containers=[{"name": "c", "image": "i", "resources": resources}])
    return pod


async def test_containers_get_their_namespaces_defaults(bench: Any, make: Any) -> None:
    item = {"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}
    await bench.create("limitranges", _limits(item))
    pod = (await bench.create("pods", make.pod())).obj
    assert pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m", "memory": "1Gi"},
        "requests": {"cpu": "100m", "memory": "1Gi"},
    }
    assert pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    )
    assert pod["status"]["qosClass"] == "Burstable"


@pytest.mark.parametrize(
    ("item", "requests", "limits", "why"),
    [
        ({"min": {"cpu": "100m"}}, {"cpu": "50m"}, {"cpu": "1"},
         "minimum cpu usage per Container is 100m, but request is 50m"),
        ({"max": {"memory": "1Gi"}}, {}, {"memory": "2Gi"},
         "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, {"cpu": "100m"}, {"cpu": "300m"},
         "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, {"cpu": "100m"}, {},
         "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0"),
        ({"min": {"cpu": "1"}, "max": {"cpu": "2"}}, {"cpu": "3"}, {"cpu": "3"},
         "maximum cpu usage per Container is 2, but limit is 3"),
    ],
)  # fmt: skip
async def test_containers_stay_within_bounds(
    bench: Any, make: Any, item: dict[str, Any], requests: dict[str, str], limits: dict[str, str], why: str
) -> None:
    await bench.create("limitranges", _limits({"type": "Container", **item}))
    e = await refusal(bench.create("pods", _sized(make, "p", requests, limits)))
    assert (e.code, e.message) == (403, f'pods "p" is forbidden: {why}')


async def test_pods_and_claims_have_bounds_of_their_own(bench: Any, make: Any) -> None:
    claims = {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}
    await bench.create("limitranges", _limits({"type": "Pod", "max": {"cpu": "1"}}, claims))
    two = [{"name": n, "image": "i", "resources": {"limits": {"cpu": "600m"}}} for n in "ab"]
    e = await refusal(bench.create("pods", make.pod("p", containers=two)))
    assert e.message == 'pods "p" is forbidden: maximum cpu usage per Pod is 1, but limit is 1200m'

    def claim(size: str) -> dict[str, Any]:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        return {"metadata": {"name": "c"}, "spec": spec}

    for size, why in (
        ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
        ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
    ):
        e = await refusal(bench.create("persistentvolumeclaims", claim(size)))
        assert e.message == f'persistentvolumeclaims "c" is forbidden: {why}'
    await bench.create("persistentvolumeclaims", claim("2Gi"))


# --- the others


async def test_runtime_classes_and_new_nodes(bench: Any, make: Any) -> None:
    e = await refusal(bench.create("pods", make.pod("p", runtimeClassName="gvisor")))
    assert e.message == 'pods "p" is forbidden: pod rejected: RuntimeClass "gvisor" not found'
    node = (await bench.create("nodes", {"metadata": {"name": "n"}}, "")).obj
    assert node["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]


async def test_one_priority_class_is_the_default(bench: Any) -> None:
    def named(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "value": 1, "globalDefault": True}

    await bench.create("priorityclasses.scheduling.k8s.io", named("a"), "")
    e = await refusal(bench.create("priorityclasses.scheduling.k8s.io", named("b"), ""))
    assert "PriorityClass a is already marked as default. Only one default can exist" in e.message


async def test_a_registry_that_is_run_decides_from_memory(bench: Any, make: Any) -> None:
    await bench.create("limitranges", _limits({"type": "Pod", "max": {"cpu": "1"}}))
    task = asyncio.create_task(bench.registry.run())
    try:
        e = await refusal(bench.create("pods", _sized(make, "p", {}, {"cpu": "2"})))
        assert "maximum cpu usage per Pod is 1" in e.message
        await bench.delete("limitranges", "l")
        async with asyncio.timeout(20):
            while True:
                try:
                    await bench.create("pods", _sized(make, "p", {}, {"cpu": "2"}))
                    break
                except ApiError:
                    await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
