"""What an API server is told at start: addresses, keys and limits. Pure.

One frozen object; `validate()` says what is wrong and what would be right. Names follow kube-apiserver's flags. Keys
are paths, never contents: configs may travel in actor arguments, which are persisted.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

ISSUER = "https://kubernetes.default.svc.cluster.local"

_OIDC_ALGS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")


class ConfigError(ValueError):
    """A setting is wrong; the message says which, and what would be right."""


@dataclass(frozen=True)
class ApiServerConfig:
    """Settings of one API server. Times in seconds, sizes in bytes."""

    tls_cert_file: str
    tls_private_key_file: str
    client_ca_file: str
    service_account_signing_key_file: str
    service_account_key_files: tuple[str, ...]
    kubelet_client_certificate: str = ""
    kubelet_client_key: str = ""
    kubelet_certificate_authority: str = ""
    kubelet_verify_host_name: bool = True
    proxy_client_cert_file: str = ""
    proxy_client_key_file: str = ""
    bind_address: str = "0.0.0.0"
    secure_port: int = 6443
    advertise_address: str = "127.0.0.1"
    service_account_issuer: str = ISSUER
    api_audiences: tuple[str, ...] = (ISSUER,)
    token_auth_file: str = ""
    enable_bootstrap_token_auth: bool = True
    oidc_issuer_url: str = ""
    oidc_client_id: str = ""
    oidc_username_claim: str = "sub"
    oidc_username_prefix: str = ""
    oidc_groups_claim: str = ""
    oidc_groups_prefix: str = ""
    oidc_ca_file: str = ""
    oidc_signing_algs: tuple[str, ...] = ("RS256",)
    oidc_required_claim: tuple[str, ...] = ()  # each name=value
    max_requests_inflight: int = 400  # the sum of this and the next is what priority levels share
    max_mutating_requests_inflight: int = 200
    audit_policy_file: str = ""
    audit_log_path: str = ""
    audit_log_maxsize_mb: int = 100  # the log is rotated before it grows over this; 0: never
    audit_log_maxbackup: int = 10  # rotated files that are kept; 0: all
    audit_log_maxage_days: int = 0  # older ones are removed; 0: however old
    request_timeout_s: float = 60.0
    min_request_timeout_s: float = 1800.0
    body_timeout_s: float = 30.0
    unread_timeout_s: float = 60.0  # a connection whose client takes nothing of what waits for it is cut
    max_body_bytes: int = 3 * 1024 * 1024
    gzip_min_bytes: int = 128 * 1024
    bookmark_period_s: float = 60.0
    watch_buffer_events: int = 16384
    window_events: int = 4096
    watch_cache_sizes: tuple[str, ...] = ()  # each resource[.group]#events, where it is not window_events
    window_bytes: int = 16 * 1024 * 1024
    cache_wait_s: float = 3.0
    shutdown_grace_s: float = 5.0
    endpoint_lease_ttl_s: int = 5
    endpoint_reconcile: bool = True
    anonymous_paths: tuple[str, ...] = field(
        default=("/healthz", "/livez", "/readyz", "/version", "/dashboard")  # of the last the page only, no data
    )

    def validate(self) -> None:
        """Raise ConfigError for the first setting that cannot work."""
        self._files()
        self._addresses()
        self._limits()
        if not self.service_account_issuer.startswith("https://"):
            raise ConfigError(
                f"service_account_issuer: {self.service_account_issuer!r} must be an https URL, as {ISSUER}"
            )
        if self.audit_log_path and not self.audit_policy_file:
            raise ConfigError("audit_policy_file: missing; audit_log_path needs a policy that says what to note")
        self._oidc()
        _ = self.watch_windows

    def _files(self) -> None:
        for name in ("tls_cert_file", "tls_private_key_file", "client_ca_file", "service_account_signing_key_file"):
            self._file(name, str(getattr(self, name)), required=True)
        if not self.service_account_key_files:
            raise ConfigError(
                "service_account_key_files: empty; give at least the public key of the signing key (sa.pub)"
            )
        for path in self.service_account_key_files:
            self._file("service_account_key_files", path, required=True)
        for name in (
            "kubelet_client_certificate",
            "kubelet_client_key",
            "kubelet_certificate_authority",
            "token_auth_file",
            "oidc_ca_file",
            "audit_policy_file",
            "proxy_client_cert_file",
            "proxy_client_key_file",
        ):
            self._file(name, str(getattr(self, name)), required=False)
        if bool(self.kubelet_client_certificate) != bool(self.kubelet_client_key):
            raise ConfigError("kubelet_client_certificate and kubelet_client_key: give both or neither")

    def _addresses(self) -> None:
        for name in ("bind_address", "advertise_address"):
            try:
                ipaddress.ip_address(str(getattr(self, name)))
            except ValueError as e:
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} is not an IP address, for instance 10.89.0.11"
                ) from e
        if not 0 <= self.secure_port <= 65535:
            raise ConfigError(f"secure_port: {self.secure_port} is not a port; 6443 is the usual one")

    def _limits(self) -> None:
        for name in ("max_requests_inflight", "max_mutating_requests_inflight", "watch_buffer_events", "window_events"):
            if int(getattr(self, name)) < 1:
                raise ConfigError(f"{name}: must be at least 1, is {getattr(self, name)}")
        for name in (
            "request_timeout_s",
            "bookmark_period_s",
            "cache_wait_s",
            "endpoint_lease_ttl_s",
            "unread_timeout_s",
        ):
            if float(getattr(self, name)) <= 0:
                raise ConfigError(f"{name}: must be above 0, is {getattr(self, name)}")

    @property
    def watch_windows(self) -> dict[str, int]:
        """Events by resource name. Raises ConfigError."""
        sizes = {}
        for size in self.watch_cache_sizes:
            resource, _, events = size.partition("#")
            if not resource or not events.isdigit():
                raise ConfigError(
                    f"watch_cache_sizes: {size!r} must be resource[.group]#events, as deployments.apps#500"
                )
            sizes[resource] = int(events)
        return sizes

    def _oidc(self) -> None:
        if bool(self.oidc_issuer_url) != bool(self.oidc_client_id):
            raise ConfigError("oidc_issuer_url and oidc_client_id: give both or neither")
        if self.oidc_issuer_url and not self.oidc_issuer_url.startswith("https://"):
            raise ConfigError(f"oidc_issuer_url: {self.oidc_issuer_url!r} must be an https URL")
        if self.oidc_issuer_url == self.service_account_issuer:
            raise ConfigError("oidc_issuer_url: must differ from service_account_issuer")
        for alg in self.oidc_signing_algs:
            if alg not in _OIDC_ALGS:
                raise ConfigError(f"oidc_signing_algs: {alg!r} is none of {', '.join(_OIDC_ALGS)}")
        for claim in self.oidc_required_claim:
            if "=" not in claim:
                raise ConfigError(f"oidc_required_claim: {claim!r} must be name=value")

    @staticmethod
    def _file(name: str, path: str, *, required: bool) -> None:
        if not path:
            if required:
                raise ConfigError(f"{name}: missing; give the path of a PEM file")
            return
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{name}: {path} cannot be read; check that it exists and its mode")


# What the machine decides, not a user's settings.
_GIVEN = frozenset(
    ("tls_cert_file", "tls_private_key_file", "client_ca_file", "service_account_signing_key_file",
     "service_account_key_files", "kubelet_client_certificate", "kubelet_client_key",
     "kubelet_certificate_authority", "bind_address", "secure_port", "advertise_address", "endpoint_reconcile")
)  # fmt: skip


def with_settings(config: ApiServerConfig, settings: Mapping[str, Any]) -> ApiServerConfig:
    """`config` with a user's settings, spelled as here or as flags (`max-requests-inflight`). Raises ConfigError."""
    return replace(config, **checked_settings(settings))


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Names and types only: files are on other machines. Raises ConfigError."""
    known = {f.name: f for f in fields(ApiServerConfig) if f.name not in _GIVEN}
    out: dict[str, Any] = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"api_server: unknown setting {key!r}; known are {', '.join(sorted(known))}")
        if isinstance(value, list):
            value = tuple(value)
        wanted = str(known[name].type)
        right = {"int": int, "float": int | float, "str": str, "bool": bool}.get(wanted, tuple)
        if not isinstance(value, right) or (isinstance(value, bool) and wanted != "bool"):
            raise ConfigError(f"api_server: {key}: {value!r} is not a {wanted}")
        out[name] = value
    return out
