"""Content negotiation: which form of an object a client asked for. Pure.

A client's Accept is a list in order of preference; the first form we serve wins, so `protobuf,json` gets JSON and
protobuf alone gets 406. Source: Kubernetes apiserver/pkg/endpoints/handlers/negotiation; RFC 9110 section 12.5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
_JSON_TYPES = frozenset({JSON, "*/*", "application/*"})
_YAML_TYPES = frozenset({YAML, "application/x-yaml", "text/yaml"})
_TRANSFORMS = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@dataclass(frozen=True, slots=True)
class MediaType:
    """One media type with its parameters, `q` taken out."""

    type: str
    params: dict[str, str]
    q: float


@dataclass(frozen=True, slots=True)
class Accept:
    """The chosen form: `media` JSON or YAML; `transform` "", "Table" or "PartialObjectMetadata(List)"."""

    media: str = JSON
    transform: str = ""
    version: str = "v1"

    @property
    def content_type(self) -> str:
        if not self.transform:
            return self.media
        return f"{self.media};as={self.transform};v={self.version};g=meta.k8s.io"


def parse_media_types(header: str) -> list[MediaType]:
    """Accept's members, by q (highest first), otherwise in the client's order."""
    found: list[MediaType] = []
    for member in header.split(","):
        head, *rest = member.split(";")
        kind = head.strip().lower()
        if not kind:
            continue
        params = {}
        q = 1.0
        for item in rest:
            key, _, value = item.partition("=")
            key, value = key.strip().lower(), value.strip().strip('"')
            if key == "q":
                try:
                    q = float(value)
                except ValueError:
                    q = 0.0
            elif key:
                params[key] = value
        if q > 0:
            found.append(MediaType(kind, params, q))
    return sorted(found, key=lambda m: -m.q)


def content_type(header: str) -> str:
    """The media type of a Content-Type header, lower case, without parameters."""
    return header.partition(";")[0].strip().lower()


@lru_cache(maxsize=512)
def negotiate(header: str, *, transforms: bool = True) -> Accept | None:
    """What to serve for an Accept header; None when nothing in it can be served (406)."""
    if not header:
        return Accept()
    for member in parse_media_types(header):
        if member.type in _JSON_TYPES:
            media = JSON
        elif member.type in _YAML_TYPES:
            media = YAML
        else:
            continue
        transform = member.params.get("as", "")
        if not transform:
            return Accept(media)
        known = member.params.get("g") == "meta.k8s.io" and member.params.get("v") in ("v1", "v1beta1")
        if transforms and known and transform in _TRANSFORMS:
            return Accept(media, transform, member.params["v"])
    return None


def wants_aggregated_discovery(header: str) -> bool:
    """True when aggregated discovery v2 comes before plain JSON in the client's list."""
    for member in parse_media_types(header):
        p = member.params
        if member.type in _JSON_TYPES:
            if p.get("as") == "APIGroupDiscoveryList" and p.get("g") == "apidiscovery.k8s.io":
                if p.get("v") == "v2":
                    return True
                continue
            if "as" not in p:
                return False
    return False
