"""A small valid object of every stored kind, by `resource/version`: what a client would send."""

from __future__ import annotations

import base64
import copy
import ipaddress
import zlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.api.scheme import ResourceInfo

Object = dict[str, Any]

_LABELS = {"app": "a"}
_TEMPLATE = {"metadata": {"labels": _LABELS}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
_WORKLOAD = {"selector": {"matchLabels": _LABELS}, "template": _TEMPLATE}
_JOB = {"template": {"spec": {**_TEMPLATE["spec"], "restartPolicy": "Never"}}}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
_TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
_DEVICES: Object = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c.example.com"}}]}}
_POD_REF = {"kind": "Pod", "namespace": "default", "name": "p"}


def signing_request(common_name: str = "jane") -> str:
    """A PKCS#10 request, PEM in base64, as a CSR's spec.request wants it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(csr.public_bytes(serialization.Encoding.PEM)).decode()


_ADMISSION = "admissionregistration.k8s.io/v1"
_RULE: Object = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
_HOOK: Object = {
    "name": "never.example.com",
    "clientConfig": {"service": {"namespace": "default", "name": "s"}},
    "rules": [{**_RULE, "resources": ["bindings"]}],
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
}
_CONSTRAINTS: Object = {"resourceRules": [_RULE]}

_BODIES: dict[str, Object] = {
    f"mutatingwebhookconfigurations.{_ADMISSION}": {"webhooks": [_HOOK]},
    f"validatingwebhookconfigurations.{_ADMISSION}": {"webhooks": [_HOOK]},
    f"validatingadmissionpolicies.{_ADMISSION}": {
        "spec": {"matchConstraints": _CONSTRAINTS, "validations": [{"expression": "true"}]}
    },
    f"validatingadmissionpolicybindings.{_ADMISSION}": {
        "spec": {"policyName": "nobody", "validationActions": ["Deny"]}
    },
    f"mutatingadmissionpolicies.{_ADMISSION}": {
        "spec": {
            "matchConstraints": _CONSTRAINTS,
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        }
    },
    f"mutatingadmissionpolicybindings.{_ADMISSION}": {"spec": {"policyName": "nobody"}},
    "configmaps/v1": {"data": {"k": "v"}},
    "endpoints/v1": {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]},
    "events/v1": {"involvedObject": _POD_REF, "reason": "R", "message": "m", "type": "Normal"},
    "limitranges/v1": {"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}},
    "namespaces/v1": {},
    "nodes/v1": {},
    "persistentvolumeclaims/v1": {"spec": _CLAIM},
    "persistentvolumes/v1": {
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    },
    "pods/v1": {"spec": _TEMPLATE["spec"]},
    "podtemplates/v1": {"template": _TEMPLATE},
    "replicationcontrollers/v1": {"spec": {"template": _TEMPLATE}},
    "resourcequotas/v1": {"spec": {"hard": {"pods": "100"}}},
    "secrets/v1": {"stringData": {"k": "v"}},
    "serviceaccounts/v1": {},
    "services/v1": {"spec": {"ports": [{"port": 80}], "selector": _LABELS}},
    "controllerrevisions.apps/v1": {"revision": 1, "data": {"x": 1}},
    "daemonsets.apps/v1": {"spec": _WORKLOAD},
    "deployments.apps/v1": {"spec": _WORKLOAD},
    "replicasets.apps/v1": {"spec": _WORKLOAD},
    "statefulsets.apps/v1": {"spec": {**_WORKLOAD, "serviceName": "s"}},
    "horizontalpodautoscalers.autoscaling/v1": {
        "spec": {"maxReplicas": 3, "scaleTargetRef": _TARGET, "targetCPUUtilizationPercentage": 50}
    },
    "horizontalpodautoscalers.autoscaling/v2": {"spec": {"maxReplicas": 3, "scaleTargetRef": _TARGET}},
    "cronjobs.batch/v1": {"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": _JOB}}},
    "jobs.batch/v1": {"spec": _JOB},
    "leases.coordination.k8s.io/v1": {"spec": {"holderIdentity": "me"}},
    "endpointslices.discovery.k8s.io/v1": {"addressType": "IPv4", "endpoints": [], "ports": []},
    "events.events.k8s.io/v1": {
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c",
        "reportingInstance": "c-1",
        "action": "Doing",
        "reason": "R",
        "type": "Normal",
        "note": "n",
        "regarding": _POD_REF,
    },
    "flowschemas.flowcontrol.apiserver.k8s.io/v1": {
        "spec": {
            "priorityLevelConfiguration": {"name": "exempt"},
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": "u"}}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                }
            ],
        }
    },
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io/v1": {
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}
    },
    "ingresses.networking.k8s.io/v1": {
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}
    },
    "ingressclasses.networking.k8s.io/v1": {"spec": {"controller": "example.com/ingress"}},
    "ipaddresses.networking.k8s.io/v1": {"spec": {"parentRef": {"resource": "services", "name": "s"}}},
    "servicecidrs.networking.k8s.io/v1": {"spec": {"cidrs": ["10.77.0.0/24"]}},
    "deviceclasses.resource.k8s.io/v1": {"spec": {"selectors": [{"cel": {"expression": "true"}}]}},
    "resourceclaims.resource.k8s.io/v1": {"spec": _DEVICES},
    "resourceclaimtemplates.resource.k8s.io/v1": {"spec": {"spec": _DEVICES}},
    "resourceslices.resource.k8s.io/v1": {
        "spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}}
    },
    "networkpolicies.networking.k8s.io/v1": {"spec": {"podSelector": {}}},
    "runtimeclasses.node.k8s.io/v1": {"handler": "runc"},
    "poddisruptionbudgets.policy/v1": {"spec": {"minAvailable": 1, "selector": {"matchLabels": _LABELS}}},
    "clusterrolebindings.rbac.authorization.k8s.io/v1": {
        "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": "u"}],
    },
    "clusterroles.rbac.authorization.k8s.io/v1": {
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    },
    "rolebindings.rbac.authorization.k8s.io/v1": {
        "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": "u"}],
    },
    "roles.rbac.authorization.k8s.io/v1": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    "priorityclasses.scheduling.k8s.io/v1": {"value": 5},
    "csidrivers.storage.k8s.io/v1": {"spec": {}},
    "csinodes.storage.k8s.io/v1": {"spec": {"drivers": []}},
    "csistoragecapacities.storage.k8s.io/v1": {"storageClassName": "block", "capacity": "1Gi"},
    "storageclasses.storage.k8s.io/v1": {"provisioner": "example.com/p"},
    "volumeattachments.storage.k8s.io/v1": {
        "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}
    },
    "volumeattributesclasses.storage.k8s.io/v1": {"driverName": "example.com", "parameters": {"a": "b"}},
}


def _definition(name: str) -> Object:
    """A CRD is named after what it defines."""
    plural = name.replace(".", "-") + "s"
    names = {"plural": plural, "singular": plural[:-1], "kind": "X" + plural, "listKind": f"X{plural}List"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    spec = {"group": "sample.dev", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"{plural}.sample.dev"}, "spec": spec}


def sample(info: ResourceInfo, name: str) -> Object:
    """Raises KeyError for a kind without a sample: a new kind needs one. Kinds whose names are not free (CRDs,
    APIServices, IPAddresses) choose theirs by `name`."""
    if info.kind == "CustomResourceDefinition":
        return {"kind": info.kind, "apiVersion": info.api_version, **_definition(name)}
    if info.kind == "APIService":
        group = name.replace(".", "-") + ".sample.dev"
        spec = {"group": group, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10}
        spec |= {"service": {"name": "s", "namespace": "default"}, "insecureSkipTLSVerify": True}
        metadata = {"name": f"v1.{group}"}
        return {"kind": info.kind, "apiVersion": info.api_version, "metadata": metadata, "spec": spec}
    if info.kind == "CertificateSigningRequest":
        spec = {"request": signing_request(), "signerName": "example.com/s", "usages": ["client auth"]}
        body: Object = {"spec": spec}
    else:
        body = copy.deepcopy(_BODIES[f"{info.name}/{info.version}"])
    if info.kind == "IPAddress":
        name = str(ipaddress.IPv4Address(0x0A4D0000 + zlib.crc32(name.encode()) % 0xFFFF))
    return {"kind": info.kind, "apiVersion": info.api_version, "metadata": {"name": name}, **body}


def path_of(info: ResourceInfo, name: str = "", namespace: str = "default") -> str:
    base = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    middle = f"/namespaces/{namespace}" if info.namespaced else ""
    return f"{base}{middle}/{info.plural}" + (f"/{name}" if name else "")
