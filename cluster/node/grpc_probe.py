"""The gRPC health check of a probe: `grpc.health.v1.Health/Check` (grpc/doc/health-checking.md).

IO: one connection per probe, without TLS, as Kubernetes' prober. grpc is imported at the first such probe: most
machines never have one.
"""

from __future__ import annotations

from typing import Any

from cluster.node.protobuf_wire import field

_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def grpc_health(action: dict[str, Any], ip: str, timeout_s: float) -> tuple[bool, str]:
    """(whether the service is SERVING, what was answered)"""
    import grpc

    address = f"{ip}:{int(action['port'])}"
    service = str(action.get("service") or "")
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        check = channel.unary_unary(_METHOD, request_serializer=request, response_deserializer=status_of)
        try:
            status = await check(service, timeout=timeout_s)
        except grpc.aio.AioRpcError as err:
            if err.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return False, f'timeout: failed to connect service "{address}" within {timeout_s:g}s: {err.details()}'
            if err.code() == grpc.StatusCode.UNIMPLEMENTED:
                why = "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                return False, f"error: {why}: {err.details()}"
            return False, f'service unhealthy (address "{address}", service "{service}"): {err.details()}'
    word = _STATUS.get(status, str(status))
    return status == _SERVING, f'service {"healthy" if status == _SERVING else "unhealthy"} (responded with "{word}")'


def request(service: str) -> bytes:
    """HealthCheckRequest: field 1, a string."""
    return field(1, service.encode()) if service else b""


def status_of(answer: bytes) -> int:
    """HealthCheckResponse: field 1, an enum; absent means 0. Raises ValueError for anything else."""
    if not answer:
        return 0
    if len(answer) < 2 or answer[0] != 0x08 or answer[1] & 0x80:
        raise ValueError("the answer is no HealthCheckResponse")
    return answer[1]
