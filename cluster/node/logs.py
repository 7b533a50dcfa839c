"""A container's log as `kubectl logs` asks for it.

Pure. Times are RFC 3339 with nanoseconds as the runtime gives them; `limitBytes` cuts exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import bad_request
from cluster.api.meta import parse_time
from cluster.node.runtime import LogOptions


@dataclass(frozen=True, slots=True)
class LogQuery:
    options: LogOptions
    previous: bool = False
    limit_bytes: int | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str], now: float) -> LogQuery:
        """From a request's query. Raises ApiError 400."""
        since: float | None = None
        seconds = _number(query, "sinceSeconds", 1)
        if seconds is not None:
            since = now - seconds
        if query.get("sinceTime"):
            if seconds is not None:
                raise bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
            try:
                since = parse_time(query["sinceTime"])
            except ValueError as err:
                raise bad_request(f"sinceTime: {err}") from err
        options = LogOptions(
            follow=_flag(query, "follow"),
            timestamps=_flag(query, "timestamps"),
            tail=_number(query, "tailLines", 0),
            since=since,
            stream=_stream(query),
        )
        return cls(options, _flag(query, "previous"), _number(query, "limitBytes", 1))


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true", "t")


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise bad_request(f"{name}: {text!r} is not a number") from None
    if value < least:
        raise bad_request(f"{name}: must be greater than or equal to {least}")
    return value


def _stream(query: Mapping[str, str]) -> str:
    name = query.get("stream") or "All"
    if name not in ("All", "Stdout", "Stderr"):
        raise bad_request(f'stream: Unsupported value: "{name}": supported values: "All", "Stderr", "Stdout"')
    if name != "All" and query.get("tailLines"):
        raise bad_request("tailLines: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now")
    return "" if name == "All" else name.lower()


def run_of(status: Mapping[str, Any], pod: str, *, previous: bool) -> str:
    """The id of the run whose log is meant, from a container's status. Raises ApiError 400 when there is none.

    Source: the kubelet's validateContainerLogStatus: while a container waits, its log is that of the run before.
    """
    state, name = status["state"], f'container "{status["name"]}" in pod "{pod}"'
    ended, last = state.get("terminated"), (status.get("lastState") or {}).get("terminated")
    if previous:
        if not _id(last):
            raise bad_request(f"previous terminated {name} not found")
        return _id(last)
    if "running" in state:
        return _id(status)
    if ended or last:
        if not _id(ended) and not _id(last):
            raise bad_request(f"{name} is terminated")
        return _id(ended) or _id(last)
    reason = str((state.get("waiting") or {}).get("reason") or "ContainerCreating")
    raise bad_request(f"{name} is waiting to start: {_WHY.get(reason, reason)}")


_WHY = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}


def _id(run: Mapping[str, Any] | None) -> str:
    return str((run or {}).get("containerID") or "").partition("://")[2]
