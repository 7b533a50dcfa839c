"""What the status of a ValidatingAdmissionPolicy says of its expressions."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import policytypes, schema
from cluster.api.scheme import SCHEME
from cluster.controllers.policy_status import PolicyStatusController
from cluster.machinery.client import clone
from tests.support.controller_world import World

POLICIES = "validatingadmissionpolicies.admissionregistration.k8s.io"


def _policy(expression: str) -> dict[str, Any]:
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": expression}]}
    return {"metadata": {"name": "p"}, "spec": spec}


async def test_fields_that_do_not_exist_are_told_once_for_each_generation() -> None:
    async with World(PolicyStatusController) as w:
        await w.create(POLICIES, _policy("object.foo > 1"))
        await w.settle()
        policy = await w.client.get(POLICIES, "p")
        assert policy["status"] == {
            "observedGeneration": 1,
            "typeChecking": {
                "expressionWarnings": [
                    {
                        "fieldRef": "spec.validations[0].expression",
                        "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n"
                        " | object.foo > 1\n | ......^",
                    }
                ]
            },
        }
        better = clone(policy)
        better["spec"]["validations"][0]["expression"] = "object.spec.replicas > 1"
        await w.client.update(POLICIES, better)
        await w.settle()
        assert (await w.client.get(POLICIES, "p"))["status"] == {"observedGeneration": 2, "typeChecking": {}}


@pytest.mark.parametrize(
    ("expression", "faults"),
    [
        ("object.spec.template.spec.containers.all(c, c.image.startsWith('r/') && c.imagee == '')", ["imagee"]),
        ("object.spec.template.spec.containers[0].ports[0].hostport == 1", ["hostport"]),
        ("object.metadata.labels['a'] == 'b' && object.metadata.labels.anything == 'c'", []),
        ("has(object.spec.nothing) || oldObject.status.replicas == 1", ["nothing"]),
        ("variables.x.y == 1 && params.data.z == 'a' && request.userInfo.username != ''", []),
    ],
)
def test_selections_are_followed_as_far_as_types_are_known(expression: str, faults: list[str]) -> None:
    assert policytypes.undefined(expression, schema.node_of(SCHEME.named("deployments.apps"))) == faults
