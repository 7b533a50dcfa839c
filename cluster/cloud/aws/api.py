"""Calling AWS: one session, clients made when first needed, failures as ProviderErrors that say whether to try again.

IO: boto3, which blocks, in threads. Throttled and broken calls are tried again by botocore (standard mode: three times,
waiting longer and longer); what still fails comes here, and the controllers' queues wait longer still.

    ProviderError
     └─ CloudError   `.code` is Amazon's; retriable unless the same call can never succeed
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.machinery.provider import ProviderError

_T = TypeVar("_T")
_MISSING = ("NotFound", "NotFoundException", "Malformed")
_FINAL = ("UnauthorizedOperation", "AuthFailure", "InvalidParameterValue", "InvalidParameterCombination",
          "MissingParameter", "ValidationError", "OptInRequired", "InvalidClientTokenId", "AccessDenied")  # fmt: skip


class CloudError(ProviderError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}", retriable=code not in _FINAL and not code.endswith(_MISSING))
        self.code = code

    @property
    def missing(self) -> bool:
        """What was named is not there."""
        return self.code.endswith(_MISSING)


@dataclass(frozen=True, slots=True)
class AwsConfig:
    """`cluster_name` marks what is ours (tag kubernetes.io/cluster/<name>). `endpoint`: of something that stands in for
    AWS. `credentials`: a file like ~/.aws/credentials, "" to find them as AWS' tools do. `subnets`: of load balancers,
    none to find them by their tags. `block_backed`: attached volumes are disks of this box, for local machines."""

    region: str
    cluster_name: str = "sk8"
    endpoint: str = ""
    credentials: str = ""
    subnets: tuple[str, ...] = ()
    route_table: str = ""
    block_backed: bool = False

    @property
    def tag(self) -> str:
        return f"kubernetes.io/cluster/{self.cluster_name}"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AwsConfig:
        """Raises ValueError naming the setting and what would be right."""
        unknown = sorted(set(settings) - set(cls.__slots__))
        if unknown:
            raise ValueError(f"aws: unknown setting {', '.join(unknown)}; known are {', '.join(cls.__slots__)}")
        if not settings.get("region"):
            raise ValueError("aws: region is needed, such as us-east-1")
        return cls(**{**settings, "subnets": tuple(settings.get("subnets", ()))})


class Aws:
    """Thread-safe; `call` may be used from any number of tasks."""

    def __init__(self, config: AwsConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    async def call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer of one operation, named as boto3 names it. Raises CloudError, ProviderError."""
        return await asyncio.to_thread(self._call, service, operation, arguments)

    async def all(self, service: str, operation: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        """`key` of every page of a listing."""
        return await asyncio.to_thread(self._pages, service, operation, key, arguments)

    def _call(self, service: str, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            return dict(getattr(self._client(service), operation)(**arguments))

        return self._translated(ask)

    def _pages(self, service: str, operation: str, key: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            pages = self._client(service).get_paginator(operation).paginate(**arguments)
            return [item for page in pages for item in page.get(key, ())]

        return self._translated(read)

    @staticmethod
    def _translated(work: Callable[[], _T]) -> _T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return work()
        except ClientError as err:
            said = err.response.get("Error", {})
            raise CloudError(str(said.get("Code", "Unknown")), str(said.get("Message", err))) from err
        except BotoCoreError as err:
            raise ProviderError(f"AWS does not answer: {err}") from err

    def _client(self, service: str) -> Any:
        with self._lock:  # making a client is not thread-safe, using one is
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        import boto3  # tens of megabytes, and only who runs on AWS pays them
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        if self.config.credentials:
            session.set_config_variable("credentials_file", self.config.credentials)
        return boto3.Session(botocore_session=session).client(
            service,
            endpoint_url=self.config.endpoint or None,
            region_name=self.config.region,
            config=Config(connect_timeout=20, read_timeout=60, retries={"mode": "standard", "max_attempts": 4}),
        )


def tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in found.get("Tags") or ()}


def tag_list(wanted: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": k, "Value": v} for k, v in sorted(wanted.items())]


def filters(**wanted: str | Sequence[str]) -> list[dict[str, Any]]:
    """EC2's filters; an underscore in a name is a hyphen, two are a colon."""
    return [
        {"Name": name.replace("__", ":").replace("_", "-"), "Values": [v] if isinstance(v, str) else list(v)}
        for name, v in wanted.items()
    ]
