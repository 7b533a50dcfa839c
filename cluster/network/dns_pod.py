"""A pod of the `coredns` Deployment: the machines' DNS server as a program. IO; composition only.

    python3 -m cluster.network.dns_pod --cluster-dns 10.96.0.10 ...

It serves every name of the cluster, by watch, and is what the machines' servers ask about other names; those it asks
of the nameservers of its resolv.conf (dnsPolicy Default: the machine's). Ports are CoreDNS': 53, /health on 8080,
/ready on 8181, /metrics on 9153.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import start_http_server

from cluster.network.config import ConfigError, DnsConfig
from cluster.network.dns import DnsServer
from cluster.network.dns_pod_client import PodClient

log = logging.getLogger(__name__)

HEALTH_PORT, READY_PORT, METRICS_PORT = 8080, 8181, 9153
_LAMEDUCK_S = 5.0
"""So long it goes on answering after SIGTERM: the machines learn of its end by watch (CoreDNS' `lameduck`)."""


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = _arguments(sys.argv[1:])
        config.validate()
        client = PodClient.in_cluster()
    except ConfigError as err:
        print(f"coredns: {err}", file=sys.stderr)
        return 1
    except KeyError as err:
        print(f"coredns: no {err} in the environment; this program runs in a pod", file=sys.stderr)
        return 1
    asyncio.run(_run(config, client))
    return 0


def _arguments(words: list[str]) -> DnsConfig:
    parser = argparse.ArgumentParser(prog="coredns", description=__doc__.splitlines()[0])
    parser.add_argument("--cluster-dns", required=True, help="ClusterIP of the Service kube-dns")
    parser.add_argument("--cluster-domain", default="cluster.local")
    parser.add_argument("--cluster-cidr", required=True, help="addresses of pods; of both families, with a comma")
    parser.add_argument("--service-cluster-ip-range", required=True)
    parser.add_argument("--upstream", action="append", default=[], help="ip[:port]; default: those of --resolv-conf")
    parser.add_argument("--resolv-conf", default="/etc/resolv.conf")
    parser.add_argument("--bind-ip", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=53)
    args = parser.parse_args(words)
    pods, services = args.cluster_cidr.split(","), args.service_cluster_ip_range.split(",")
    return DnsConfig(
        listen_ip=args.cluster_dns,
        bind_ip=args.bind_ip,
        port=args.port,
        cluster_domain=args.cluster_domain,
        cluster_cidr=pods[0],
        service_cluster_ip_range=services[0],
        ranges_ipv6=(*pods[1:], *services[1:]),
        upstreams=tuple(args.upstream),
        resolv_conf=args.resolv_conf,
        make_link=False,
    )


async def _run(config: DnsConfig, client: PodClient) -> None:
    """Until SIGTERM; raises what the server raises."""
    server = DnsServer(config, client)  # type: ignore[arg-type]  # a reader: nothing is ever written
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _serve(HEALTH_PORT, lambda: {"ready": True})
    _serve(READY_PORT, lambda: {"ready": server.health()["ready"] and not stopping.is_set()})
    start_http_server(METRICS_PORT)
    serving = asyncio.create_task(server.run())
    ended = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    log.info("told to stop; answering for %g s more", _LAMEDUCK_S)
    await asyncio.sleep(_LAMEDUCK_S)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def _serve(port: int, status: Callable[[], dict[str, object]]) -> None:
    """Any path: 200 while `ready`, else 503. For as long as the process lives."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = status()
            body = json.dumps(said).encode() + b"\n"
            self.send_response(200 if said["ready"] else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not news."""

    listener = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=listener.serve_forever, name=f"http {port}", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
