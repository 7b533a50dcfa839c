"""Who a StatefulSet's pods are: names, ordinals, labels, the claims that stay with them.

Pure. Source: kubernetes pkg/controller/statefulset/stateful_set_utils.go.

Invariant: a pod's name says its identity (`<set>-<ordinal>`), its claims' names follow from it
(`<template>-<set>-<ordinal>`), and nothing else ties them together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cluster.api.meta import controller_of, owner_reference
from cluster.controllers.revisions_core import REVISION_HASH_LABEL
from cluster.machinery.client import Obj, clone

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"

_NAME = re.compile(r"(.*)-([0-9]+)", re.ASCII | re.DOTALL)


def split_name(pod_name: str) -> tuple[str, int]:
    """(set's name, ordinal); ("", -1) for a name that is no identity."""
    found = _NAME.fullmatch(pod_name)
    if found is None:
        return "", -1
    return found.group(1), int(found.group(2))


def ordinal(pod: Obj) -> int:
    return split_name(pod["metadata"]["name"])[1]


def is_member(set_: Obj, pod: Obj) -> bool:
    return bool(split_name(pod["metadata"]["name"])[0] == set_["metadata"]["name"])


def replicas(set_: Obj) -> int:
    value = set_["spec"].get("replicas")
    return 1 if value is None else int(value)


def start(set_: Obj) -> int:
    return int((set_["spec"].get("ordinals") or {}).get("start") or 0)


def in_range(set_: Obj, index: int) -> bool:
    return start(set_) <= index < start(set_) + replicas(set_)


def pod_revision(pod: Obj) -> str:
    return str((pod["metadata"].get("labels") or {}).get(REVISION_HASH_LABEL, ""))


def claim_templates(set_: Obj) -> list[Obj]:
    return list(set_["spec"].get("volumeClaimTemplates") or [])


def claim_names(set_: Obj, index: int) -> list[str]:
    return [f"{t['metadata']['name']}-{set_['metadata']['name']}-{index}" for t in claim_templates(set_)]


def new_claims(set_: Obj, index: int) -> list[Obj]:
    """The PersistentVolumeClaims of an identity, without owners."""
    claims = []
    selected = (set_["spec"].get("selector") or {}).get("matchLabels") or {}
    for template, name in zip(claim_templates(set_), claim_names(set_, index), strict=True):
        meta: Obj = {"name": name, "namespace": set_["metadata"]["namespace"]}
        given = template.get("metadata") or {}
        labels = {**(given.get("labels") or {}), **selected}
        if labels:
            meta["labels"] = labels
        if given.get("annotations"):
            meta["annotations"] = dict(given["annotations"])
        claims.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta})
        claims[-1]["spec"] = clone(template["spec"])
    return claims


def new_pod(set_: Obj, template: Obj, revision: str, index: int) -> Obj:
    meta = template.get("metadata") or {}
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{set_['metadata']['name']}-{index}",
            "namespace": set_["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), REVISION_HASH_LABEL: revision},
            "ownerReferences": [owner_reference(set_)],
        },
        "spec": clone(template["spec"]),
    }
    for field in ("annotations", "finalizers"):
        if meta.get(field):
            pod["metadata"][field] = meta[field]
    identify(set_, pod)
    pod["spec"]["hostname"] = pod["metadata"]["name"]
    if set_["spec"].get("serviceName"):
        pod["spec"]["subdomain"] = set_["spec"]["serviceName"]
    else:
        pod["spec"].pop("subdomain", None)
    volumes = _volumes(set_, pod)
    if volumes:
        pod["spec"]["volumes"] = volumes
    return pod


def identify(set_: Obj, pod: Obj) -> None:
    """Set the labels that say who the pod is, in place."""
    labels = pod["metadata"].setdefault("labels", {})
    labels[POD_NAME_LABEL] = pod["metadata"]["name"]
    labels[POD_INDEX_LABEL] = str(ordinal(pod))


def identity_matches(set_: Obj, pod: Obj) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return (
        is_member(set_, pod)
        and labels.get(POD_NAME_LABEL) == pod["metadata"]["name"]
        and labels.get(POD_INDEX_LABEL) == str(ordinal(pod))
    )


def _volumes(set_: Obj, pod: Obj) -> list[Obj]:
    """The template's volumes; those of claim templates replaced by the identity's claims."""
    names = [t["metadata"]["name"] for t in claim_templates(set_)]
    claimed = [
        {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        for name, claim in zip(names, claim_names(set_, ordinal(pod)), strict=True)
    ]
    return claimed + [v for v in pod["spec"].get("volumes") or [] if v["name"] not in names]


# ---- who owns the claims


def retention(set_: Obj) -> tuple[str, str]:
    """(whenDeleted, whenScaled)."""
    policy = set_["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    return policy.get("whenDeleted", "Retain"), policy.get("whenScaled", "Retain")


def claim_owners(set_: Obj, claim: Obj, pod: Obj) -> list[dict[str, Any]] | None:
    """The owner references the claim should have, None when they are right already.

    The set owns claims that go with it, a pod that is scaled away owns those that go with the scale; a claim that
    another controller owns is left alone.
    """
    refs = list(claim["metadata"].get("ownerReferences") or [])
    mine = {set_["metadata"]["uid"], pod["metadata"].get("uid", "")}
    other = controller_of(claim)
    if other is not None and other.get("uid") not in mine and not _is_old_owner(set_, pod, other):
        return None
    when_deleted, when_scaled = retention(set_)
    condemned = not in_range(set_, ordinal(pod))
    by_pod = when_scaled == "Delete" and condemned
    by_set = when_deleted == "Delete" and not by_pod
    kept = [r for r in refs if r.get("uid") not in mine and not _is_old_owner(set_, pod, r)]
    if by_set:
        kept.append(_same_ref(refs, set_))
    elif by_pod:
        kept.append(_same_ref(refs, pod))
    return None if kept == refs else kept


def stale_claim(claim: Obj, pod_name: str) -> bool:
    """The claim belongs to an earlier pod of this name and goes with it: the next pod must wait for a new one."""
    if "deletionTimestamp" in claim["metadata"]:
        return True
    refs = claim["metadata"].get("ownerReferences") or []
    return any(r.get("kind") == "Pod" and r.get("name") == pod_name for r in refs)


def _is_old_owner(set_: Obj, pod: Obj, ref: Mapping[str, Any]) -> bool:
    """An earlier set or pod of the same name."""
    return (ref.get("kind"), ref.get("name")) in (
        ("StatefulSet", set_["metadata"]["name"]),
        ("Pod", pod["metadata"]["name"]),
    )


def _same_ref(refs: list[dict[str, Any]], owner: Obj) -> dict[str, Any]:
    for ref in refs:
        if ref.get("uid") == owner["metadata"]["uid"]:
            return ref
    return owner_reference({"apiVersion": "v1", "kind": "Pod", **owner})
