"""The options of a request (its query), judged as Kubernetes judges them. Pure.

A value that is no number or boolean is 400; one that does not fit is 422 with the options' kind, CreateOptions and so
on. Source: apimachinery pkg/apis/meta/{v1,internalversion}/validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cluster.api import errors
from cluster.apiserver.requestinfo import flag

_KINDS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_VALIDATIONS = ("Ignore", "Strict", "Warn")
_MAX_MANAGER = 128
_WHOLE = re.compile("[+-]?[0-9]+")
_MAX_DIGITS = 32

Params = Mapping[str, str]


def _invalid(kind: str, reason: str, field: str, why: str) -> errors.ApiError:
    return errors.invalid(kind, "meta.k8s.io", "", [errors.Cause(reason, why, field)])


def _forbidden(field: str, why: str) -> errors.ApiError:
    return _invalid("ListOptions", "FieldValueForbidden", field, f"Forbidden: {why}")


def _unsupported(kind: str, field: str, value: str, options: tuple[str, ...]) -> errors.ApiError:
    listed = ", ".join(f'"{o}"' for o in options)
    why = f'Unsupported value: "{value}": supported values: {listed}'
    return _invalid(kind, "FieldValueNotSupported", field, why)


def write_options(params: Params, verb: str) -> tuple[bool, str, str]:
    """(dry run, field validation, field manager) of a create, update or patch."""
    kind = _KINDS.get(verb, "CreateOptions")
    dry = params.get("dryRun", "")
    if dry not in ("", "All"):
        raise _unsupported(kind, "dryRun", dry, ("All",))
    validation = params.get("fieldValidation") or "Warn"
    if validation not in _VALIDATIONS:
        raise _unsupported(kind, "fieldValidation", validation, _VALIDATIONS)
    manager = params.get("fieldManager", "")
    if len(manager) > _MAX_MANAGER:
        why = f"Too long: may not be more than {_MAX_MANAGER} bytes"
        raise _invalid(kind, "FieldValueTooLong", "fieldManager", why)
    if not manager.isprintable():
        why = f"Invalid value: {manager!r}: should only contain printable characters"
        raise _invalid(kind, "FieldValueInvalid", "fieldManager", why)
    return bool(dry), validation, manager


def whole_number(params: Params, key: str) -> int:
    """An integer parameter, 0 when it is not given."""
    text = params.get(key, "")
    if not text:
        return 0
    if not _WHOLE.fullmatch(text):
        raise errors.bad_request(f'{key}: strconv.ParseInt: parsing "{text}": invalid syntax')
    if len(text) > _MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise errors.bad_request(f'{key}: strconv.ParseInt: parsing "{text}": value out of range')
    return int(text)


def check_list(params: Params) -> None:
    """resourceVersionMatch and what it goes with."""
    version, match = params.get("resourceVersion", ""), params.get("resourceVersionMatch", "")
    whole_number(params, "timeoutSeconds")
    if match:
        if not version:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise _forbidden("resourceVersionMatch", why)
        if params.get("continue"):
            raise _forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
        if match not in ("Exact", "NotOlderThan"):
            raise _unsupported("ListOptions", "resourceVersionMatch", match, ("Exact", "NotOlderThan", ""))
        if match == "Exact" and version == "0":
            why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            raise _forbidden("resourceVersionMatch", why)
    if "sendInitialEvents" in params:
        raise _forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if params.get("continue") and version not in ("", "0"):
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def send_initial_events(params: Params) -> bool | None:
    """A watch's sendInitialEvents, None when it is not given (KEP-3157)."""
    match = params.get("resourceVersionMatch", "")
    if "sendInitialEvents" not in params:
        if match:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise _forbidden("resourceVersionMatch", why)
        return None
    if not match:
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise _forbidden("resourceVersionMatch", why)
    if match != "NotOlderThan":
        raise _unsupported("ListOptions", "resourceVersionMatch", match, ("NotOlderThan",))
    return flag(params, "sendInitialEvents")
