"""A kubeconfig for a server under test, as one of the users its CA has signed."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.apiserver_harness import Edge


def write_kubeconfig(server: Edge, path: Path, user: str = "admin") -> Path:
    """Writes to `path` how `user` (a certificate of the server's CA) reaches the server; gives back `path`."""
    pki = server.pki
    cluster = {"server": server.url, "certificate-authority": pki.path("ca.crt")}
    keys = {"client-certificate": pki.path(f"{user}.crt"), "client-key": pki.path(f"{user}.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "t", "cluster": cluster}],
        "users": [{"name": "t", "user": keys}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "default"}}],
        "current-context": "t",
    }
    path.write_text(yaml.safe_dump(config))
    return path
