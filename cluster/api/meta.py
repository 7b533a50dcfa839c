"""Helpers on object metadata: times, owners, conditions.

Pure: the time is always passed in, in seconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

Object = dict[str, Any]

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(maxsize=256)
def _rfc3339_of_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()}Z"  # strftime writes year 1 as "1"


def rfc3339(t: float) -> str:
    """metav1.Time: whole seconds, UTC."""
    return _rfc3339_of_second(int(t))


def rfc3339_micro(t: float) -> str:
    """metav1.MicroTime: microseconds, UTC."""
    micros = round(t * 1_000_000)
    return f"{_rfc3339_of_second(micros // 1_000_000)[:-1]}.{micros % 1_000_000:06d}Z"


def uuid4(bits: int) -> str:
    """128 random bits as a UUID of version 4 (RFC 9562, section 5.4)."""
    bits = bits & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x4000 << 64 | 0x8000 << 48
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; raises ValueError with Go's words."""
    m = _RFC3339.fullmatch(text)
    if m is None:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}" as "2006"')
    year, month, day, hour, minute, second = (int(x) for x in m.groups()[:6])
    zone = m.group(8)
    offset = 0 if zone in "Zz" else (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    base = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    return base - offset + (float(m.group(7)) if m.group(7) else 0.0)


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference with `controller: true`; the object's own, not to be changed."""
    for ref in (obj.get("metadata") or {}).get("ownerReferences") or ():
        if ref.get("controller"):
            found: Mapping[str, Any] = ref
            return found
    return None


def owner_reference(owner: Mapping[str, Any], *, controller: bool = True) -> Object:
    """A reference to `owner`, which must carry apiVersion and kind; a controller's also blocks its deletion."""
    ref: Object = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    if controller:
        ref["controller"] = True
        ref["blockOwnerDeletion"] = True
    return ref


def condition(obj: Mapping[str, Any], kind: str) -> Object | None:
    """The entry of status.conditions whose type is `kind`."""
    for c in (obj.get("status") or {}).get("conditions") or ():
        if c.get("type") == kind:
            return dict(c)
    return None


def is_true(obj: Mapping[str, Any], kind: str) -> bool:
    """Whether its condition of this type says "True": neither "False", nor "Unknown", nor nothing."""
    for c in (obj.get("status") or {}).get("conditions") or ():
        if c.get("type") == kind:
            return bool(c.get("status") == "True")
    return False


def set_condition(conditions: list[Object], new: Object, now: float) -> bool:
    """Put `new` into `conditions` in place; lastTransitionTime moves only when `status` does. True if anything
    changed.
    """
    for i, old in enumerate(conditions):
        if old.get("type") != new["type"]:
            continue
        merged = {**old, **new}
        if old.get("status") == new.get("status"):
            if "lastTransitionTime" in old:
                merged["lastTransitionTime"] = old["lastTransitionTime"]
        else:
            merged["lastTransitionTime"] = new.get("lastTransitionTime") or rfc3339(now)
        if merged == old:
            return False
        conditions[i] = merged
        return True
    conditions.append({**new, "lastTransitionTime": new.get("lastTransitionTime") or rfc3339(now)})
    return True
