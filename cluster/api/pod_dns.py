"""How a pod resolves names: its dnsPolicy, and the list of domains its resolver tries. Pure.

The kubelet writes it into the pod's resolv.conf; the machine's DNS server follows the same list for the pod. Source:
Kubernetes' documentation, "DNS for Services and Pods".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Obj = dict[str, Any]
MAX_SEARCHES = 32
CLUSTER_FIRST = ("ClusterFirst", "ClusterFirstWithHostNet")


def dns_policy(pod: Obj) -> str:
    """A pod on the machine's network uses the machine's resolver unless it says ClusterFirstWithHostNet."""
    policy = str(pod["spec"].get("dnsPolicy") or "ClusterFirst")
    return "Default" if policy == "ClusterFirst" and pod["spec"].get("hostNetwork") else policy


def search_domains(pod: Obj, cluster_domain: str, machine_searches: Sequence[str]) -> list[str]:
    """The cluster's domains (policies ClusterFirst...), the machine's, those of dnsConfig; each once, in this order."""
    policy = dns_policy(pod)
    searches: list[str] = []
    if policy in CLUSTER_FIRST:
        searches = [f"{pod['metadata']['namespace']}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain]
    if policy != "None":
        searches += machine_searches
    searches += (pod["spec"].get("dnsConfig") or {}).get("searches") or ()
    return list(dict.fromkeys(searches))[:MAX_SEARCHES]


def parse_resolv_conf(text: str) -> tuple[list[str], list[str], dict[str, str]]:
    """(nameservers, searches, options) of a resolv.conf; resolv.conf(5)."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = [word for word in words[1:] if word != "."]
        elif words[0] == "options":
            options.update({w.partition(":")[0]: w.partition(":")[2] for w in words[1:]})
    return servers, searches, options
