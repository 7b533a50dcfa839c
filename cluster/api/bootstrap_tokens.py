"""Reading bootstrap tokens' Secrets: `abcdef.0123456789abcdef`, in kube-system, for machines that are to join.

Pure. Source: KEP-130, k8s.io/cluster-bootstrap token/api and token/util.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Any

import orjson

from cluster.api.meta import parse_time

NAMESPACE = "kube-system"
SECRET_TYPE = "bootstrap.kubernetes.io/token"
NAME_PREFIX = "bootstrap-token-"
_ID = re.compile(r"[a-z0-9]{6}", re.ASCII)
_SECRET = re.compile(r"[a-z0-9]{16}", re.ASCII)


def decoded(secret: dict[str, Any]) -> dict[str, str]:
    """The Secret's data as text; what is none is left out."""
    out: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            out[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return out


def expires_at(data: dict[str, str]) -> float | None:
    """None: never. A time that cannot be read counts as passed."""
    until = data.get("expiration", "")
    if not until:
        return None
    try:
        return parse_time(until)
    except ValueError:
        return 0.0


def is_expired(data: dict[str, str], now: float) -> bool:
    until = expires_at(data)
    return until is not None and until <= now


def signing_token(secret: dict[str, Any], now: float) -> tuple[str, str] | None:
    """(id, secret) of a token that may sign kube-public/cluster-info now."""
    data = decoded(secret)
    token_id, key = data.get("token-id", ""), data.get("token-secret", "")
    meta = secret["metadata"]
    well_formed = _ID.fullmatch(token_id) and _SECRET.fullmatch(key) and meta["name"] == NAME_PREFIX + token_id
    if secret.get("type") != SECRET_TYPE or not well_formed or "deletionTimestamp" in meta or is_expired(data, now):
        return None
    return (token_id, key) if data.get("usage-bootstrap-signing") == "true" else None


def detached_jws(content: str, token_id: str, token_secret: str) -> str:
    """RFC 7515 appendix F with HS256: who holds the token can tell that `content` comes from who else holds it."""
    header = _b64(orjson.dumps({"alg": "HS256", "kid": token_id}))
    signature = hmac.new(token_secret.encode(), f"{header}.{_b64(content.encode())}".encode(), hashlib.sha256).digest()
    return f"{header}..{_b64(signature)}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
