"""A member's log as a person reads it: every record of every segment, in order. IO (reading), blocking.

Works beside a running member, and on a log that will not open: everything before the damage comes out, then WalCorrupt.
Values are shown as their length unless asked for: they may be secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.core.types import ConfChange, Entry, EntryKind, HardState, SnapshotMeta
from raft.errors import StoreError
from raft.storage import segment
from raft.storage.errors import WalCorrupt, WalMissing
from raft.storage.segment import Record
from raft.storage.wal import list_segments
from raft.wire import unpack


@dataclass(frozen=True, slots=True)
class Dumped:
    """``kind``: header, hard_state, marker, entry, torn."""

    file: str
    offset: int
    kind: str
    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "offset": self.offset, "kind": self.kind, **self.fields}

    def text(self) -> str:
        fields = dict(self.fields)
        commands = fields.pop("commands", [])
        head = f"{self.file}:{self.offset} {self.kind} " + " ".join(f"{k}={v}" for k, v in fields.items())
        return "\n".join([head, *(f"    {_command_text(command)}" for command in commands)])


def dump(directory: Path, *, values: bool = False) -> Iterator[Dumped]:
    """Raises WalMissing, WalCorrupt."""
    segments = list_segments(directory)
    if not segments:
        raise WalMissing(directory)
    for one in segments:
        yield from _segment(one.path, last=one is segments[-1], values=values)


def _segment(path: Path, *, last: bool, values: bool) -> Iterator[Dumped]:
    data = path.read_bytes()
    try:
        contents = segment.parse(path, data, last=last)
    except WalCorrupt as error:
        # What comes before the damage is good: read that as if the file had been torn there.
        if error.offset:
            yield from _records(path, segment.parse(path, data[: error.offset], last=True), values)
        raise
    yield from _records(path, contents, values)
    if contents.torn_at is not None:
        text = "never synced; opening the log cuts it off"
        yield Dumped(path.name, contents.torn_at, "torn", {"bytes": len(data) - contents.torn_at, "note": text})


def _records(path: Path, contents: segment.Contents, values: bool) -> Iterator[Dumped]:
    header = contents.header
    fields = {
        "cluster": header.metadata.cluster_id,
        "member": header.metadata.member_id,
        **_hard_state(header.hard_state),
        "marker": header.snapshot_marker.index,
    }
    yield Dumped(path.name, 0, "header", fields)
    for offset, kind, payload in contents.records:
        wire = segment.unpack(path, offset, payload)
        with segment.decoding(path, offset):
            items = _record(kind, wire, values)
        for name, shown in items:
            yield Dumped(path.name, offset, name, shown)


def _record(kind: Record, wire: Any, values: bool) -> list[tuple[str, dict[str, Any]]]:
    if kind is Record.ENTRIES:
        return [("entry", _entry(Entry.from_wire(raw), values)) for raw in wire]
    if kind is Record.HARD_STATE:
        return [("hard_state", _hard_state(HardState.from_wire(wire)))]
    if kind is Record.SNAPSHOT_MARKER:
        return [("marker", _marker(SnapshotMeta.from_wire(wire)))]
    return []


def _hard_state(state: HardState) -> dict[str, Any]:
    return {"term": state.term, "vote": state.vote, "commit": state.commit}


def _marker(meta: SnapshotMeta) -> dict[str, Any]:
    return {"index": meta.index, "term": meta.term, "voters": list(meta.conf.voters)}


def _entry(entry: Entry, values: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"index": entry.index, "term": entry.term}
    try:
        if entry.kind == EntryKind.CONF_CHANGE:
            change = ConfChange.decode(entry.data)
            return fields | {"membership": [[op, member] for op, member in change.changes]}
        if not entry.data:
            return fields | {"commands": []}
        _, origin, sequence, commands = unpack(entry.data)
        shown = [_command(command, values) for command in commands]
        return fields | {"origin": origin.hex(), "sequence": sequence, "commands": shown}
    except (StoreError, ValueError, TypeError, AttributeError) as error:
        return fields | {"undecodable": str(error), "bytes": len(entry.data)}


def _command(command: list[Any], values: bool) -> list[Any]:
    """Keys as text; values as they are, or their length."""
    if command[0] != "txn":
        return list(command)
    _, compares, then, otherwise = command
    judged = [[_text(key), target, op, _value(operand, values)] for key, target, op, operand in compares]
    return ["txn", judged, [_op(op, values) for op in then], [_op(op, values) for op in otherwise]]


def _op(op: list[Any], values: bool) -> list[Any]:
    if op[0] == "put":
        return ["put", _text(op[1]), _value(op[2], values), op[3]]
    return [op[0], _text(op[1]), None if op[2] is None else _text(op[2]), *op[3:]]


def _value(value: Any, values: bool) -> Any:
    if not isinstance(value, bytes):
        return value
    return _text(value) if values else f"<{len(value)} bytes>"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _command_text(command: list[Any]) -> str:
    if command[0] != "txn":
        return " ".join(map(str, command))
    _, compares, then, otherwise = command
    parts = [f"if {' and '.join(f'{k}.{t} {o} {v}' for k, t, o, v in compares)}"] if compares else []
    parts += [" ".join(map(str, op)) for op in then]
    return "; ".join(parts) + (f"; else {'; '.join(' '.join(map(str, op)) for op in otherwise)}" if otherwise else "")
