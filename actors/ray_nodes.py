"""Tell Ray that this machine's earlier lives are over. IO: Ray's own GCS service over gRPC.

A machine that lost power leaves its raylet in Ray's node table as alive: our health-check thresholds are slow on
purpose (docs/decisions/ray.md), and the new raylet answers at the old one's address. Its actors then look alive at
ports where nobody listens, and are not restarted. The machine itself knows better than any time-out: sk8-machine
starts Ray only when no process of an earlier start is left, so every other node entry under its name is dead. The
raylet's own farewell (UnregisterNode) is said in its place; Ray then restarts those actors here within a second.
"""

from __future__ import annotations

import os
from typing import Any

import grpc
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import common_pb2, gcs_service_pb2, gcs_service_pb2_grpc

TIMEOUT_S = 5.0
# Generated modules have no types.
_messages: Any = gcs_service_pb2
_services: Any = gcs_service_pb2_grpc
_common: Any = common_pb2


def forget_earlier_lives(gcs_address: str, token: str, machine: str, own_node_id: str) -> list[str]:
    """Unregister every living node of this machine but `own_node_id` (hex); the ids. Raises grpc.RpcError."""
    encrypted = "RAY_USE_TLS" in os.environ
    metadata = [] if encrypted else [("authorization", f"Bearer {token}")]  # Ray's own channel adds the token itself
    with init_grpc_channel(gcs_address) if encrypted else grpc.insecure_channel(gcs_address) as channel:
        service = _services.NodeInfoGcsServiceStub(channel)
        known = service.GetAllNodeInfo(
            _messages.GetAllNodeInfoRequest(), metadata=metadata, timeout=TIMEOUT_S
        ).node_info_list
        stale = [
            node.node_id
            for node in known
            if node.node_name == machine and node.state == 0 and node.node_id.hex() != own_node_id
        ]
        for node_id in stale:
            request = _messages.UnregisterNodeRequest(node_id=node_id)
            request.node_death_info.reason = _common.NodeDeathInfo.UNEXPECTED_TERMINATION
            request.node_death_info.reason_message = f"machine {machine} was restarted"
            service.UnregisterNode(request, metadata=metadata, timeout=TIMEOUT_S)
    return [node_id.hex() for node_id in stale]
