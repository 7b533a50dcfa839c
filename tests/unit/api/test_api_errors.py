"""The Status that clients see."""

from __future__ import annotations

import pickle

from cluster.api import errors
from cluster.api.scheme import SCHEME


def test_texts_are_kubernetes() -> None:
    deployments = SCHEME.named("deployments.apps")
    assert errors.not_found(deployments, "x").message == 'deployments.apps "x" not found'
    assert errors.not_found("pods", "x").status()["details"] == {"name": "x", "kind": "pods"}
    assert errors.already_exists("pods", "x").message == 'pods "x" already exists'
    assert errors.conflict(deployments, "x").message == (
        'Operation cannot be fulfilled on deployments.apps "x": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    causes = [errors.Cause("FieldValueInvalid", "Invalid value: -1: no", "spec.replicas")]
    assert errors.invalid("Deployment", "apps", "x", causes).message == (
        'Deployment.apps "x" is invalid: spec.replicas: Invalid value: -1: no'
    )
    two = errors.invalid("Pod", "", "x", [*causes, errors.Cause("FieldValueRequired", "Required value", "spec.y")])
    assert two.message == 'Pod "x" is invalid: [spec.replicas: Invalid value: -1: no, spec.y: Required value]'


def test_status_round_trip() -> None:
    error = errors.too_many_requests("slow down", 7)
    again = errors.ApiError.from_status(error.status())
    assert (again.code, again.reason, again.message, again.retry_after_s) == (429, "TooManyRequests", "slow down", 7)
    assert pickle.loads(pickle.dumps(error)).status() == error.status()


def test_each_error_has_its_http_code() -> None:
    made = {
        404: errors.not_found("pods", "x"), 409: errors.conflict("pods", "x"), 422: errors.invalid("Pod", "", "x", []),
        403: errors.forbidden("pods", "x", "no"), 400: errors.bad_request("x"), 401: errors.unauthorized(),
        405: errors.method_not_supported("pods", "create"), 406: errors.not_acceptable(), 410: errors.expired("x"),
        415: errors.unsupported_media_type(), 500: errors.internal("x"), 504: errors.timeout("x"),
        503: errors.service_unavailable("x"), 413: errors.too_large("x"), 429: errors.too_many_requests("x"),
    }  # fmt: skip
    for code, error in made.items():
        assert error.code == code
        assert error.status()["status"] == "Failure"
    assert isinstance(errors.fence_lost("x"), errors.FenceLost)
