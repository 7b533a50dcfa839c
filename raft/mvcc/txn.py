"""What a transaction may look like, and how its compares are judged. Pure.

``check_txn`` runs once, on the member that proposes; whatever is in the log has passed it. Applying judges only what
depends on state (compares, leases).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from raft.errors import Invalid
from raft.mvcc.types import Compare, Op, in_range

_TARGETS = frozenset(("mod", "create", "version", "lease", "value"))
_OPERATORS: dict[str, Callable[[int | bytes, int | bytes], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_OP_LENGTHS = {"put": 4, "delete": 3, "range": 4}


def holds(compare: Compare, found: int | bytes) -> bool:
    """``found`` is what the compare's target is now; for an absent key 0, or an empty value."""
    return _OPERATORS[compare[2]](found, compare[3])


def check_txn(compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op], max_ops: int) -> None:
    """Raises Invalid, saying which part is wrong."""
    if len(compares) > max_ops or len(then) > max_ops or len(otherwise) > max_ops:
        raise Invalid(f"etcdserver: too many operations in txn request (limit {max_ops})")
    for i, compare in enumerate(compares):
        _check_compare(i, compare)
    _check_ops("then", then)
    _check_ops("otherwise", otherwise)


def _is_plain_put(op: Op) -> bool:
    """A put with nothing wrong: most of all operations, judged in one go."""
    return (
        type(op) in (list, tuple)
        and len(op) == 4
        and op[0] == "put"
        and type(op[1]) is bytes
        and op[1] != b""
        and type(op[2]) is bytes
        and type(op[3]) is int
        and op[3] >= 0
    )


def _check_compare(i: int, compare: Compare) -> None:
    if not isinstance(compare, (tuple, list)) or len(compare) != 4:
        raise Invalid(f"compares[{i}]: must be (key, target, operator, operand)")
    key, target, op, operand = compare
    if not isinstance(key, bytes) or not key:
        raise Invalid(f"compares[{i}]: etcdserver: key is not provided")
    if target not in _TARGETS:
        raise Invalid(f"compares[{i}]: unknown target {target!r}: must be one of {', '.join(_TARGETS)}")
    if op not in _OPERATORS:
        raise Invalid(f"compares[{i}]: unknown operator {op!r}: must be one of {' '.join(_OPERATORS)}")
    wanted = bytes if target == "value" else int
    if not isinstance(operand, wanted) or isinstance(operand, bool):
        raise Invalid(f"compares[{i}]: operand of {target} must be {wanted.__name__}")


def _check_ops(side: str, ops: Sequence[Op]) -> None:
    if len(ops) == 1 and _is_plain_put(ops[0]):
        return
    puts: dict[bytes, None] = {}
    deletes: list[tuple[bytes, bytes | None]] = []
    for i, op in enumerate(ops):
        if not isinstance(op, (tuple, list)) or not op or _OP_LENGTHS.get(op[0]) != len(op):
            raise Invalid(f"{side}[{i}]: must be a put, delete or range operation")
        if not isinstance(op[1], bytes) or not op[1]:
            raise Invalid(f"{side}[{i}]: etcdserver: key is not provided")
        if op[0] == "put":
            if not isinstance(op[2], bytes) or not isinstance(op[3], int) or op[3] < 0:
                raise Invalid(f'{side}[{i}]: a put is ("put", key, value, lease_id >= 0)')
            if op[1] in puts:
                raise Invalid(f"{side}[{i}]: etcdserver: duplicate key given in txn request")
            puts[op[1]] = None
            continue
        if op[2] is not None and not isinstance(op[2], bytes):
            raise Invalid(f"{side}[{i}]: range_end must be bytes or None")
        if op[0] == "delete":
            deletes.append((op[1], op[2]))
        elif not isinstance(op[3], int) or op[3] < 0:
            raise Invalid(f"{side}[{i}]: limit must be an int >= 0")
    if puts and deletes:
        for start, end in deletes:
            if any(in_range(key, start, end) for key in puts):
                raise Invalid(f"{side}: etcdserver: duplicate key given in txn request")
