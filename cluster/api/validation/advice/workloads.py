"""Pods, and what has a template of them.

Pure. Source: WarningsOnCreate and WarningsOnUpdate of pkg/registry/{core,apps,batch}, pkg/api/job/warnings.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.api.validation.advice import pods, storage
from cluster.api.validation.fields import dns_label

Object = dict[str, Any]

_ALL_REVISIONS = "a negative value retains all historical revisions; a value >= 0 is recommended"
_MANY_COMPLETIONS, _MUCH_PARALLELISM = 100_000, 10_000
_TOO_MANY_INDEXES = (
    "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes "
    "might not be able to track completedIndexes when a big number of indexes fail"
)


def _name(metadata: Object, used: str) -> Iterator[str]:
    if why := dns_label(metadata.get("name") or ""):
        surprise = "which can result in surprising behavior; a DNS label is recommended"
        yield f"metadata.name: this is used in {used}, {surprise}: [{why}]"


def pod(new: Object, old: Object | None) -> Iterator[str]:
    """Of new ones alone: hardly anything of a pod can be changed, and hardly by people."""
    if old is None:
        yield from _name(new["metadata"], "the Pod's hostname")
        yield from pods.pod("", new["metadata"], new["spec"])


def _template(path: str, template: Object) -> Iterator[str]:
    yield from pods.pod(f"{path}.", template.get("metadata") or {}, template.get("spec") or {})


def _written(new: Object, old: Object | None, field: str = "spec") -> bool:
    return old is None or new.get(field) != old.get(field)


def pod_template(new: Object, old: Object | None) -> Iterator[str]:
    if _written(new, old, "template"):
        yield from _template("template", new.get("template") or {})


def workload(new: Object, old: Object | None) -> Iterator[str]:
    if _written(new, old):
        yield from _template("spec.template", (new.get("spec") or {}).get("template") or {})


def named_workload(new: Object, old: Object | None) -> Iterator[str]:
    if old is None:
        yield from _name(new["metadata"], "Pod names and hostnames")
    yield from workload(new, old)


def stateful_set(new: Object, old: Object | None) -> Iterator[str]:
    yield from workload(new, old)
    spec = new.get("spec") or {}
    if _written(new, old):
        for i, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
            yield from storage.claim_spec(f"spec.volumeClaimTemplates[{i}].spec", claim.get("spec") or {})
        if (spec.get("revisionHistoryLimit") or 0) < 0:
            yield f"spec.revisionHistoryLimit: {_ALL_REVISIONS}"


def _job_spec(path: str, spec: Object) -> Iterator[str]:
    many = (spec.get("completions") or 0) > _MANY_COMPLETIONS and (spec.get("parallelism") or 0) > _MUCH_PARALLELISM
    if spec.get("completionMode") == "Indexed" and many:
        yield f"{path}: {_TOO_MANY_INDEXES}"
    yield from _template(f"{path}.template", spec.get("template") or {})


def job(new: Object, old: Object | None) -> Iterator[str]:
    if old is None:
        yield from _name(new["metadata"], "Pod names and hostnames")
    if _written(new, old):
        yield from _job_spec("spec", new.get("spec") or {})


def cron_job(new: Object, old: Object | None) -> Iterator[str]:
    if old is None:
        yield from _name(new["metadata"], "Pod names and hostnames")
    if _written(new, old):
        template = (new.get("spec") or {}).get("jobTemplate") or {}
        yield from _job_spec("spec.jobTemplate.spec", template.get("spec") or {})
