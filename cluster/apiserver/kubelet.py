"""Where a pod's kubelet is, and a TLS client for it. IO: connections to kubelets.

The kubelet of a node listens at its InternalIP, port 10250 or what its status says. We show the kubelet-client
certificate; its serving certificate must be of the cluster's CA and (unless config says otherwise) for that address.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from cluster.api import errors
from cluster.api.nodes import internal_ip
from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache
from cluster.apiserver.config import ApiServerConfig

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A container of a pod on a machine."""

    base_url: str
    namespace: str
    pod: str
    container: str

    def url(self, what: str) -> str:
        return f"{self.base_url}/{what}/{quote(self.namespace)}/{quote(self.pod)}/{quote(self.container)}"


class KubeletClient:
    """Finds kubelets in the cache and speaks to them."""

    def __init__(self, config: ApiServerConfig, cache: Cache) -> None:
        self._config = config
        self._cache = cache
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Made at first use, on the running loop."""
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(ssl=self._tls(), limit=0, keepalive_timeout=30)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _tls(self) -> ssl.SSLContext:
        config = self._config
        context = ssl.create_default_context(cafile=config.kubelet_certificate_authority or config.client_ca_file)
        context.check_hostname = config.kubelet_verify_host_name
        if config.kubelet_client_certificate:
            context.load_cert_chain(config.kubelet_client_certificate, config.kubelet_client_key)
        return context

    def node_url(self, name: str) -> str:
        """`https://<InternalIP>:<port>`. Raises ApiError 404 without the node, 503 without an address."""
        info = SCHEME.named("nodes")
        entry = self._cache.get(info, "", name)
        if entry is None:
            raise errors.not_found(info, name)
        node = entry.decode()
        address = internal_ip(node)
        if not address and (node["metadata"].get("labels") or {}).get("sk8.io/hollow"):
            raise errors.service_unavailable(f"node {name} is hollow: its pods are simulated, no process runs there")
        if not address:
            raise errors.service_unavailable(f"node {name} has no InternalIP address yet")
        endpoints = (node.get("status") or {}).get("daemonEndpoints") or {}
        port = (endpoints.get("kubeletEndpoint") or {}).get("Port") or 10250
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{port}"

    def host_of(self, namespace: str, name: str) -> str:
        """The kubelet of a pod. Raises ApiError 404, or 400 when the pod is on no machine yet."""
        info = SCHEME.named("pods")
        entry = self._cache.get(info, namespace, name)
        if entry is None:
            raise errors.not_found(info, name)
        if not entry.node:
            raise errors.bad_request(f"pod {name} does not have a host assigned")
        return self.node_url(entry.node)

    def target(self, namespace: str, name: str, container: str, *, must_run: bool) -> Target:
        """The kubelet and container of a pod. Raises ApiError 404, or 400 as kubectl expects it."""
        info = SCHEME.named("pods")
        entry = self._cache.get(info, namespace, name)
        if entry is None:
            raise errors.not_found(info, name)
        pod = entry.decode()
        chosen = choose_container(pod, container)
        if not entry.node:
            raise errors.bad_request(f"pod {name} does not have a host assigned")
        phase = (pod.get("status") or {}).get("phase")
        if must_run and phase in ("Succeeded", "Failed"):
            raise errors.bad_request(f"cannot exec into a container in a completed pod; current phase is {phase}")
        return Target(self.node_url(entry.node), namespace, name, chosen)


def choose_container(pod: dict[str, Any], container: str) -> str:
    """The named container, or the only one, or the default-container annotation's. Raises ApiError 400."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    containers = [c["name"] for c in spec.get("containers") or ()]
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    ephemerals = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    if container:
        if container not in (*containers, *inits, *ephemerals):
            raise errors.bad_request(f"container {container} is not valid for pod {name}")
        return container
    if len(containers) == 1:
        return str(containers[0])
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container", "")
    if default in containers:
        return str(default)
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise errors.bad_request(text)
