"""Pod ranges announced by BGP: what bird2 is told, and what it says of its sessions. Pure.

Every machine announces its own podCIDRs: to every other machine (a full mesh of iBGP, RFC 4271 9.1), and to the routers
that the cluster names (eBGP), so that a router between two segments knows the way to pods, and nothing needs a tunnel.
A machine is believed its own Node's podCIDRs and nothing else, so that none draws another's pods' traffic; what routers
say is not taken at all.

    protocol static   own podCIDRs, to be announced; never in the kernel (they lead to this machine's pods)
    protocol bgp      one for each other machine, one for each router
    protocol kernel   what came by BGP, into the main table; left there when bird ends, so pods keep their way. The
                      machine's own ways are learnt: a machine on another segment is behind one of them

Source: bird2's user's guide, sections 6.3 (BGP) and 6.6 (Kernel); RFC 4724 for graceful restart: neighbours keep the
routes of a bird that begins anew.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cluster.api.bgp import Router

HOLD_S = 30
RESTART_S = 120
_LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Speaker:
    """This machine: its InternalIP, which is its router id too, and its podCIDRs (IPv4). `asn`: the cluster's."""

    address: str
    asn: int
    cidrs: tuple[str, ...]
    cluster_cidr: str
    routers: tuple[Router, ...] = ()


def bird_config(speaker: Speaker, machines: Mapping[str, Collection[str]], log_file: str) -> str:
    """All of bird's configuration; `machines`: the others' InternalIPs, with the podCIDRs each may announce."""
    pods = f"net ~ [ {speaker.cluster_cidr}+ ]"
    own = "".join(f"  route {cidr} blackhole;\n" for cidr in sorted(speaker.cidrs))
    peers = "".join(_machine(speaker, address, machines[address]) for address in sorted(machines, key=_number))
    peers += "".join(map(_router, speaker.routers))
    return f"""log "{log_file}" {_LOG_BYTES} "{log_file}.old" {{ info, warning, error, fatal, bug, auth }};
router id {speaker.address};
graceful restart wait {RESTART_S};
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol static pods {{
  ipv4;
{own}}}
protocol kernel {{
  persist;
  learn;
  ipv4 {{ import where !({pods}); export where source = RTS_BGP; }};
}}
template bgp speaker {{
  local {speaker.address} as {speaker.asn};
  strict bind;
  graceful restart;
  hold time {HOLD_S};
  connect retry time 5;
  ipv4 {{ import none; export where proto = "pods"; next hop self; }};
}}
{peers}"""


def session_name(address: str) -> str:
    """Of a session, as bird's `show protocols` has it."""
    return f"bgp_{address.replace('.', '_')}"


def sessions(shown: str) -> dict[str, str]:
    """Session -> its state, from `show protocols`: Established, or what keeps it from that."""
    found = {}
    for line in shown.splitlines():
        words = line.split()
        if len(words) >= 4 and words[0].startswith("bgp_") and words[1] == "BGP":
            found[words[0]] = " ".join(words[5:]) or words[3]  # name, BGP, table, state, since, info
    return found


def not_established(states: Mapping[str, str], addresses: Iterable[str]) -> dict[str, str]:
    """Address -> why, of the speakers that no session is established with."""
    found = {address: states.get(session_name(address), "no session") for address in addresses}
    return {address: f"BGP session: {state}" for address, state in found.items() if state != "Established"}


def _machine(speaker: Speaker, address: str, cidrs: Collection[str]) -> str:
    return f"""protocol bgp {session_name(address)} from speaker {{
  neighbor {address} as {speaker.asn};
  ipv4 {{ import where net ~ [ {", ".join(sorted(cidrs))} ]; }};
}}
"""


def _router(router: Router) -> str:
    """A neighbour, or behind one other."""
    return f"""protocol bgp {session_name(router.address)} from speaker {{
  neighbor {router.address} as {router.asn};
  multihop 2;
}}
"""


def _number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))
