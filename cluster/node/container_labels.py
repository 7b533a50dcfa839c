"""The labels of a container and what they say: written when an engine makes it, read when a kubelet finds it.

Pure. Names and keys: docs/contracts.md, "Containers on a box"; all but the machine's and the sandbox's are those of
Kubernetes' kubelet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.node.runtime import SANDBOX_CONTAINER, ContainerConfig, ContainerInfo, PodRef, SandboxConfig

LABEL_MACHINE = "sk8.machine"
LABEL_NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_POD = "io.kubernetes.pod.name"
LABEL_UID = "io.kubernetes.pod.uid"
LABEL_CONTAINER = "io.kubernetes.container.name"
LABEL_ATTEMPT = "io.kubernetes.container.restartCount"
LABEL_SANDBOX = "io.kubernetes.sandbox.id"
LABEL_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
LABEL_MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
LABEL_LOG_PATH = "io.kubernetes.container.logpath"


def sandbox_labels(machine: str, config: SandboxConfig) -> dict[str, str]:
    return _of_both(machine, config.pod, SANDBOX_CONTAINER, config.attempt)


def container_labels(machine: str, config: ContainerConfig) -> dict[str, str]:
    return {
        **_of_both(machine, config.pod, config.name, config.attempt),
        LABEL_SANDBOX: config.sandbox_id,
        LABEL_MESSAGE_PATH: config.message_path,
        LABEL_MESSAGE_POLICY: config.message_policy,
        LABEL_LOG_PATH: config.log_path,
    }


def _of_both(machine: str, pod: PodRef, container: str, attempt: int) -> dict[str, str]:
    return {
        LABEL_MACHINE: machine,
        LABEL_NAMESPACE: pod.namespace,
        LABEL_POD: pod.name,
        LABEL_UID: pod.uid,
        LABEL_CONTAINER: container,
        LABEL_ATTEMPT: str(attempt),
    }


def labelled(container_id: str, labels: Mapping[str, str], **fields: Any) -> ContainerInfo:
    """What `labels` say of a container; `fields` of ContainerInfo are what its engine says of it besides."""
    attempt = labels.get(LABEL_ATTEMPT, "0")
    return ContainerInfo(
        id=container_id,
        pod=PodRef(labels.get(LABEL_NAMESPACE, ""), labels.get(LABEL_POD, ""), labels.get(LABEL_UID, "")),
        name=labels.get(LABEL_CONTAINER, ""),
        attempt=int(attempt) if attempt.isdigit() else 0,
        sandbox_id=labels.get(LABEL_SANDBOX, ""),
        message_path=labels.get(LABEL_MESSAGE_PATH, ""),
        message_policy=labels.get(LABEL_MESSAGE_POLICY, "File"),
        log_path=labels.get(LABEL_LOG_PATH, ""),
        **fields,
    )
