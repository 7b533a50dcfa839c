"""Everything outside /api/<v> and /apis/<g>/<v> resources: discovery, OpenAPI, version, metrics, keys.

IO: none of its own but the aggregation proxy's.

OpenAPI documents are made from Kubernetes' definitions on first request, in a thread because that takes a good part
of a second, and kept as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import orjson
import yaml
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cluster.api import errors
from cluster.apiserver import negotiate
from cluster.apiserver.aggregation import Aggregator
from cluster.apiserver.apidocs import ApiDocuments, v2_form
from cluster.apiserver.call import Call, Reply
from cluster.apiserver.dashboard import Dashboard
from cluster.apiserver.discovery import Document
from cluster.apiserver.router import Answer
from cluster.apiserver.tokens import TokenVerifier

VERSION = {
    "major": "1",
    "minor": "34",
    "emulationMajor": "1",
    "emulationMinor": "34",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "33",
    "gitVersion": "v1.34.0+sk8",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "CPython",
    "platform": "linux/amd64",
}
_JWKS = "/openid/v1/jwks"
_OWN_PATHS = (
    "/dashboard/",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    _JWKS,
    "/readyz",
    "/version",
)


class DocumentServer:
    """Answers GET on non-resource paths."""

    def __init__(self, docs: ApiDocuments, aggregator: Aggregator, verifier: TokenVerifier, issuer: str) -> None:
        self._docs = docs
        self._aggregator = aggregator
        self._verifier = verifier
        self._issuer = issuer
        self._dashboard = Dashboard()
        self._fixed: dict[str, Callable[[], Reply]] = {
            "/": lambda: Reply(obj={"paths": sorted([*self._docs.discovery.paths(), *_OWN_PATHS])}),
            "/version": lambda: Reply(obj=VERSION),
            "/metrics": lambda: Reply(raw=generate_latest(), content_type=CONTENT_TYPE_LATEST),
            "/.well-known/openid-configuration": lambda: Reply(obj=self._openid()),
            _JWKS: lambda: Reply(raw=orjson.dumps(self._jwks()), content_type="application/jwk-set+json"),
        }

    async def serve(self, call: Call) -> Answer:
        """Raises ApiError 404 for paths that are nobody's, 405 for other methods."""
        path = call.info.path
        if self._dashboard.serves(path):
            return self._dashboard.serve(call)
        if path not in self._fixed and not path.startswith(("/api", "/openapi/")):
            raise errors.path_not_found()
        if call.info.verb not in ("get", "head"):
            raise errors.method_not_allowed()
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed()
        await self._docs.refresh()
        if path == "/openapi/v2":
            return _conditional(call, await self._docs.openapi(v2_form(call.headers.get("Accept", ""))))
        if path == "/openapi/v3" or path.startswith("/openapi/v3/"):
            return await self._v3(call, path.removeprefix("/openapi/v3").strip("/"))
        accept = call.headers.get("Accept", "")
        found = self._docs.discovery.find(path, aggregated=negotiate.wants_aggregated_discovery(accept))
        if found is None:
            raise errors.path_not_found()
        return _conditional(call, _as_yaml(found) if call.accept.media == negotiate.YAML else found)

    async def _v3(self, call: Call, which: str) -> Answer:
        elsewhere = self._docs.elsewhere(which)
        service = self._aggregator.target(*elsewhere) if elsewhere is not None else None
        if service is not None:
            return await self._aggregator.proxy(call, service)
        return _conditional(call, await self._docs.openapi(which))

    def _openid(self) -> dict[str, Any]:
        algorithms = sorted({a for _, a, _ in self._verifier.public_keys()})
        return {
            "issuer": self._issuer,
            "jwks_uri": self._issuer + _JWKS,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        }

    def _jwks(self) -> dict[str, Any]:
        keys = []
        for kid, algorithm, key in self._verifier.public_keys():
            if isinstance(key, RSAPublicKey):
                keys.append(
                    {
                        **jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True),
                        "kid": kid,
                        "alg": algorithm,
                        "use": "sig",
                    }
                )
            else:
                keys.append(
                    {**jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True), "kid": kid, "alg": algorithm, "use": "sig"}
                )
        return {"keys": keys}


def _as_yaml(document: Document) -> Document:
    body = yaml.dump(orjson.loads(document.body), Dumper=yaml.CSafeDumper, allow_unicode=True).encode()
    return Document(body, document.etag.removesuffix('"') + '-YAML"', negotiate.YAML)


def _conditional(call: Call, document: Document) -> Reply:
    """304 when the client has it already."""
    headers = {"ETag": document.etag, "Vary": "Accept"}
    if "hash" in call.params:
        headers["Cache-Control"] = "public, immutable"
    if document.etag in call.headers.get("If-None-Match", ""):
        return Reply(304, content_type=document.content_type, headers=headers)
    return Reply(raw=document.body, content_type=document.content_type, headers=headers)
