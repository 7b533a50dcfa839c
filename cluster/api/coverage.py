"""docs/api-coverage.md, made from the tables that the server itself serves from.

Pure, but for `main`: `python -m cluster.api.coverage` writes the page, `--check` says whether it is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.api import defaults, schema, validation
from cluster.api.scheme import EDGE, SCHEME, ResourceInfo, subresource_verbs

PAGE = Path("docs/api-coverage.md")

_HEAD = """# The API: what is served

Made from the code by `python -m cluster.api.coverage`; a test keeps it current. Schemas are those of Kubernetes
{version} as `kubernetes-validate` publishes them: every field of a kind is known, its type is checked, and it is stored
as it came. *Defaults* and *rules* say whether the kind has defaulting and validation of its own beyond the schema and
metadata (many kinds need none). Kinds defined by CustomResourceDefinitions come on top.

A verb that is not listed is 405, in Kubernetes as well. `all` stands for {all}.

| group/version | kind | resource, short names | scope | verbs | subresources | defaults | rules |
|---|---|---|---|---|---|---|---|
"""
_ALL = "create, delete, deletecollection, get, list, patch, update, watch"
_STORED_ELSEWHERE = """
## Views

{views}

## What is not there

{gaps}
"""
# Kinds of Kubernetes' stable API that this server does not have, and why. A kind leaves this table by being served.
_GAPS = {
    "resource.k8s.io/v1 DeviceTaintRule": "newer than Kubernetes 1.34; nothing here allocates devices",
    "certificates.k8s.io/v1 ClusterTrustBundle, PodCertificateRequest": "newer than Kubernetes 1.34",
    "storagemigration.k8s.io/v1 StorageVersionMigration": "newer than Kubernetes 1.34",
    "coordination.k8s.io LeaseCandidate, scheduling.k8s.io PodGroup, Workload": "alpha and beta; off by default in "
    "Kubernetes",
}
_WITHOUT_EFFECT = {
    "resourceclaims.resource.k8s.io": "stored; nothing allocates devices, and a pod that names a claim stays Pending "
    "with the scheduler's reason",
    "resourceclaimtemplates.resource.k8s.io": "stored; no controller makes claims of them",
    "deviceclasses.resource.k8s.io": "stored",
    "resourceslices.resource.k8s.io": "stored",
    "ingresses.networking.k8s.io": "stored; bring an ingress controller, as with Kubernetes",
    "volumeattributesclasses.storage.k8s.io": "stored; volumes of this cluster cannot be modified",
    "runtimeclasses.node.k8s.io": "the handler is one of the engine's runtimes",
}


def _row(info: ResourceInfo) -> str:
    gv = info.api_version
    names = info.plural + (f" ({', '.join(info.short_names)})" if info.short_names else "")
    verbs = ", ".join(sorted(info.verbs))
    subs = ", ".join(f"{s} ({', '.join(subresource_verbs(s))})" for s in info.subresources)
    hub = SCHEME.hub(info)
    marks = ["yes" if defaults.has(hub) else "", "yes" if validation.has(hub) else ""]
    scope = "namespace" if info.namespaced else "cluster"
    cells = [gv, info.kind, names, scope, "all" if verbs == _ALL else verbs, subs, *marks]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    infos = sorted((*SCHEME.served(), *EDGE), key=lambda i: (i.group, i.version, i.kind))
    views = "\n".join(
        f"- {i.api_version} {i.kind} shows what {SCHEME.hub(i).api_version} {SCHEME.hub(i).kind} stores; it is written "
        "through either and read through both"
        for i in infos
        if i.view_of
    )
    gaps = [f"- {what}: {why}" for what, why in _GAPS.items()]
    gaps += [f"- {name}: {why}" for name, why in _WITHOUT_EFFECT.items() if SCHEME.named(name)]
    head = _HEAD.format(version=schema.data_version(), all=_ALL)
    return head + "\n".join(map(_row, infos)) + "\n" + _STORED_ELSEWHERE.format(views=views, gaps="\n".join(gaps))


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        current = PAGE.read_text() if PAGE.exists() else ""
        if current == page():
            return 0
        print(f"{PAGE} is not current: run python -m cluster.api.coverage")
        return 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
