"""Which admission plugins run, and how PodSecurity is set: kube-apiserver's flags and its AdmissionConfiguration file.

Pure, but for `load`, which reads that file. Names and the set that is on by default are Kubernetes'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.api import podsecurity
from cluster.api.podsecurity import LevelVersion, Policy

ORDER = (
    "NamespaceLifecycle",
    "LimitRanger",
    "ServiceAccount",
    "NodeRestriction",
    "TaintNodesByCondition",
    "PodSecurity",
    "Priority",
    "DefaultTolerationSeconds",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
)


class AdmissionConfigError(ValueError):
    """A setting is wrong; the message says which, and what would be right."""


@dataclass(frozen=True, slots=True)
class PodSecurityConfig:
    """PodSecurityConfiguration: what namespaces without labels get, and who is exempt."""

    defaults: Policy = field(default_factory=Policy)
    usernames: tuple[str, ...] = ()
    runtime_classes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """`enable` and `disable` are --enable-admission-plugins and --disable-admission-plugins."""

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    pod_security: PodSecurityConfig = field(default_factory=PodSecurityConfig)

    def validate(self) -> None:
        """Raise AdmissionConfigError for the first setting that cannot work."""
        for name in (*self.enable, *self.disable):
            if name not in ORDER:
                raise AdmissionConfigError(f'unknown admission plugin "{name}"; known are {", ".join(ORDER)}')
        for name in self.enable:
            if name in self.disable:
                raise AdmissionConfigError(f"{name} is both enabled and disabled; name it in one of the two lists")

    def enabled(self, name: str) -> bool:
        return name not in self.disable


def load(path: str, enable: tuple[str, ...] = (), disable: tuple[str, ...] = ()) -> AdmissionConfig:
    """From an AdmissionConfiguration file (apiserver.config.k8s.io/v1), "" for none. Raises AdmissionConfigError."""
    if not path:
        return AdmissionConfig(enable, disable)
    try:
        doc = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as e:
        raise AdmissionConfigError(f"{path} cannot be read as an AdmissionConfiguration: {e}") from e
    if not isinstance(doc, dict) or doc.get("kind") != "AdmissionConfiguration":
        raise AdmissionConfigError(f"{path}: kind must be AdmissionConfiguration")
    config = AdmissionConfig(enable, disable)
    for plugin in doc.get("plugins") or ():
        if plugin.get("name") != "PodSecurity":
            why = f"plugin {plugin.get('name')!r} takes no configuration; PodSecurity does"
            raise AdmissionConfigError(f"{path}: {why}")
        body = plugin.get("configuration")
        if body is None and plugin.get("path"):
            body = yaml.safe_load((Path(path).parent / plugin["path"]).read_text())
        config = AdmissionConfig(enable, disable, pod_security(body or {}))
    return config


def pod_security(body: Mapping[str, Any]) -> PodSecurityConfig:
    """A PodSecurityConfiguration. Raises AdmissionConfigError."""
    given: Mapping[str, Any] = body.get("defaults") or {}
    modes: dict[str, LevelVersion] = {}
    for mode in ("enforce", "audit", "warn"):
        try:
            level = podsecurity.parse_level(given.get(mode) or "privileged")
            version = podsecurity.parse_version(given.get(mode + "-version") or "latest")
        except ValueError as e:
            raise AdmissionConfigError(f"PodSecurityConfiguration defaults.{mode}: {e}") from e
        modes[mode] = LevelVersion(level, version)
    exempt: Mapping[str, Any] = body.get("exemptions") or {}
    return PodSecurityConfig(
        Policy(**modes),
        tuple(exempt.get("usernames") or ()),
        tuple(exempt.get("runtimeClasses") or ()),
        tuple(exempt.get("namespaces") or ()),
    )
