"""An operator in kopf: keeps a ConfigMap with the text of every Greeting.

kubectl apply -f crd.yaml && kopf run --all-namespaces operator.py
kubectl apply -f example.yaml && kubectl get greetings,configmaps
"""

from __future__ import annotations

from typing import Any

import kopf
import kubernetes


@kopf.on.startup()
def connect(**_: Any) -> None:
    kubernetes.config.load_kube_config()


@kopf.on.create("example.com", "v1", "greetings")
@kopf.on.update("example.com", "v1", "greetings", field="spec")
def write(name: str, namespace: str, spec: kopf.Spec, patch: kopf.Patch, **_: Any) -> None:
    """The ConfigMap belongs to the Greeting, so it goes when that goes."""
    text = f"{spec['word']}, {spec['whom']}!"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"greeting-{name}"}, "data": {"text": text}}
    kopf.adopt(config)
    api = kubernetes.client.CoreV1Api()
    try:
        api.create_namespaced_config_map(namespace, config)
    except kubernetes.client.ApiException as e:
        if e.status != 409:
            raise
        api.patch_namespaced_config_map(f"greeting-{name}", namespace, {"data": config["data"]})
    patch.status["text"] = text


@kopf.on.delete("example.com", "v1", "greetings")
def farewell(name: str, logger: kopf.Logger, **_: Any) -> None:
    """kopf's finalizer holds the Greeting until this has run."""
    logger.info("%s is over", name)
