"""Hands a text of nft commands to the kernel as one atomic transaction. IO: netlink through libnftables.

libnftables is Debian's `libnftables1`, called through ctypes; where it is missing the `nft` program does the same
(16 ms instead of 0.07 ms a change). One `Nft` keeps the network namespace of the thread that made it (libnftables
opens its socket there) and is used by one thread at a time; ctypes lets other threads run meanwhile.

Invariant: after `run` returned everything is in effect; after it raised nothing of it is.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from typing import Any, Protocol

import orjson

_LIBRARIES = ("libnftables.so.1", "libnftables.so")
_OUTPUT_JSON = 1 << 4


class NftError(Exception):
    """The kernel or nft refused a transaction; the message is nft's."""


class NftRunner(Protocol):
    """What the shells here need of nft; tests give a recording one."""

    def run(self, commands: str) -> str: ...

    def listing(self, what: str) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


class LibNft:
    """libnftables in this process. Raises OSError when the library is not there."""

    def __init__(self) -> None:
        self._lib = _load()
        self._lock = threading.Lock()
        self._plain = self._context(0)
        self._json = self._context(_OUTPUT_JSON)

    def run(self, commands: str) -> str:
        """One transaction; returns what nft printed. Raises NftError."""
        return self._run(self._plain, commands)

    def listing(self, what: str) -> list[dict[str, Any]]:
        """What `list WHAT` shows, as nft's JSON objects. Raises NftError."""
        return _objects(self._run(self._json, f"list {what}"))

    def close(self) -> None:
        with self._lock:
            for context in (self._plain, self._json):
                if context:
                    self._lib.nft_ctx_free(context)
            self._plain = self._json = None

    def _context(self, flags: int) -> int | None:
        context: int | None = self._lib.nft_ctx_new(0)
        if not context:
            raise NftError("libnftables gave no context (no netlink socket: is this process root?)")
        self._lib.nft_ctx_buffer_output(context)
        self._lib.nft_ctx_buffer_error(context)
        self._lib.nft_ctx_output_set_flags(context, flags)
        return context

    def _run(self, context: int | None, commands: str) -> str:
        with self._lock:
            if context is None:
                raise NftError("this nft handle is closed")
            code = self._lib.nft_run_cmd_from_buffer(context, commands.encode())
            output: bytes = self._lib.nft_ctx_get_output_buffer(context) or b""
            error: bytes = self._lib.nft_ctx_get_error_buffer(context) or b""
        if code:
            raise NftError(_first_lines(error.decode(errors="replace")))
        return output.decode(errors="replace")


class BinaryNft:
    """The `nft` program, a process a transaction. Raises NftError when it is not installed."""

    def __init__(self) -> None:
        program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if program is None:
            raise NftError("neither libnftables (package libnftables1) nor nft (package nftables) is installed")
        self._program = program

    def run(self, commands: str) -> str:
        return self._run(["-f", "-"], commands)

    def listing(self, what: str) -> list[dict[str, Any]]:
        return _objects(self._run(["-j", f"list {what}"], ""))

    def close(self) -> None:
        """Nothing is kept open."""

    def _run(self, arguments: list[str], commands: str) -> str:
        done = subprocess.run([self._program, *arguments], input=commands, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NftError(_first_lines(done.stderr))
        return done.stdout


def open_nft() -> NftRunner:
    """The library if it is there, else the program. Raises NftError when neither is."""
    try:
        return LibNft()
    except OSError:
        return BinaryNft()


def _load() -> ctypes.CDLL:
    error: OSError | None = None
    for name in _LIBRARIES:
        try:
            lib = ctypes.CDLL(name)
            break
        except OSError as err:
            error = err
    else:
        raise error or OSError("libnftables not found")
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
    lib.nft_ctx_free.argtypes = [ctypes.c_void_p]
    lib.nft_ctx_free.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
        getattr(lib, name).restype = ctypes.c_char_p
    lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    lib.nft_ctx_output_set_flags.restype = None
    lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return lib


def _objects(output: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(output)["nftables"] if output.strip() else []
    return [item for item in found if "metainfo" not in item]


def _first_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "; ".join(line[:300] for line in lines[:4]) or "nft failed without a message"
