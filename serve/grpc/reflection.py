"""Reflection: tools such as grpcurl ask the server itself for its messages.

It shows the public protocol and nothing of the models, so it needs no key.
"""

from __future__ import annotations

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from torchship.serve.grpc.call import SERVICE
from torchship.serve.grpc.inference_pb2 import DESCRIPTOR

HEALTH = "grpc.health.v1.Health"


def add_reflection(server: grpc.aio.Server) -> None:
    """Add the service to a server."""
    pool = descriptor_pool.DescriptorPool()
    for served in (DESCRIPTOR, health_pb2.DESCRIPTOR):
        pool.AddSerializedFile(served.serialized_pb)
    names = (SERVICE, HEALTH, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool)
