"""Where snapshots are kept: a directory, or a bucket that speaks S3. IO, blocking.

    /var/backups/sk8          a directory                     s3://bucket/prefix    Amazon's, or SNAPSHOT_ENDPOINT's
    file:///var/backups/sk8   the same                        gs://bucket/prefix    Google's, by its S3 interface

A name appears only when all of its contents are there. Credentials are found as boto3 finds them (environment,
~/.aws/credentials, the machine's role), or in a file of that format that is named; Google's are HMAC keys.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from raft.errors import Invalid, Unavailable
from raft.storage.files import replace_durably, sync_directory

GOOGLE = "https://storage.googleapis.com"

Progress = Callable[[int], None]
"""Bytes that were transferred since the last call."""


class TargetError(Unavailable):
    """It cannot be reached, or refuses."""


class Target(Protocol):
    url: str

    def names(self) -> list[str]: ...

    def put(self, path: Path, name: str, progress: Progress = ...) -> None:
        """Keep a copy of the file ``path``."""

    def get(self, name: str, path: Path, progress: Progress = ...) -> None:
        """Raises FileNotFoundError."""

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """``endpoint``: of an S3 service that is not Amazon's; ``credentials``: a file like ~/.aws/credentials."""

    endpoint: str = ""
    credentials: str = ""
    region: str = ""


def open_target(url: str, access: Access | None = None) -> Target:
    """Raises Invalid."""
    parts = urlsplit(url)
    if parts.scheme in ("s3", "gs"):
        if not parts.netloc:
            raise Invalid(f"{url}: the bucket is missing: {parts.scheme}://bucket/prefix")
        access = access or Access()
        if parts.scheme == "gs":
            access = Access(access.endpoint or GOOGLE, access.credentials, access.region or "auto")
        return Bucket(url, parts.netloc, parts.path.strip("/"), access)
    if parts.scheme not in ("", "file"):
        raise Invalid(f"{url}: must be a directory, s3://bucket/prefix or gs://bucket/prefix")
    path = Path(parts.path if parts.scheme else url)
    if not path.is_absolute():
        raise Invalid(f"{url}: must be an absolute path")
    return Directory(path)


def _nothing(_: int) -> None:
    return


class Directory:
    def __init__(self, path: Path) -> None:
        self.url = str(path)
        self._path = path

    def names(self) -> list[str]:
        return sorted(os.listdir(self._path)) if self._path.is_dir() else []

    def put(self, path: Path, name: str, progress: Progress = _nothing) -> None:
        with _clear(self.url):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._path / f".{name}.part"
            try:
                with path.open("rb") as reading, part.open("wb") as writing:
                    os.fchmod(writing.fileno(), 0o600)
                    while chunk := reading.read(1 << 20):
                        writing.write(chunk)
                        progress(len(chunk))
                    writing.flush()
                    os.fsync(writing.fileno())
                replace_durably(part, self._path / name)
            finally:
                part.unlink(missing_ok=True)

    def get(self, name: str, path: Path, progress: Progress = _nothing) -> None:
        source = self._path / name
        if not source.is_file():
            raise FileNotFoundError(f"{source} does not exist")
        shutil.copyfile(source, path)
        progress(path.stat().st_size)

    def delete(self, name: str) -> None:
        with _clear(self.url):
            (self._path / name).unlink(missing_ok=True)
            sync_directory(self._path)


class Bucket:
    """Uploads in parts, each with its checksum; an object appears when its upload is complete."""

    def __init__(self, url: str, bucket: str, prefix: str, access: Access) -> None:
        self.url = url
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with _clear(url):
            self._client = _client(access)

    def names(self) -> list[str]:
        with _clear(self.url):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        names = [key.removeprefix(self._prefix) for key in keys]
        return [name for name in names if "/" not in name]

    def put(self, path: Path, name: str, progress: Progress = _nothing) -> None:
        with _clear(self.url):
            self._client.upload_file(str(path), self._bucket, self._prefix + name, Callback=progress)

    def get(self, name: str, path: Path, progress: Progress = _nothing) -> None:
        from botocore.exceptions import ClientError

        with _clear(self.url):
            try:
                self._client.download_file(self._bucket, self._prefix + name, str(path), Callback=progress)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
                    raise FileNotFoundError(f"{self.url.rstrip('/')}/{name} does not exist") from error
                raise

    def delete(self, name: str) -> None:
        with _clear(self.url):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)


def _client(access: Access) -> Any:
    import boto3  # half a second, and only who keeps snapshots in a bucket pays it
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    if access.credentials:
        session.set_config_variable("credentials_file", access.credentials)
    return boto3.Session(botocore_session=session).client(
        "s3",
        endpoint_url=access.endpoint or None,
        region_name=access.region or None,
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 5},
            # Checksums in trailers, Amazon's default, are not understood by Google and others; the file has its own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def _clear(url: str) -> Iterator[None]:
    """What can go wrong with a target, in a sentence. Raises TargetError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.startswith(("boto3", "botocore", "s3transfer"))):
            raise
        raise TargetError(f"{url}: {error}") from error
