"""`grpc.health.v1` and reflection, with the clients of their own packages."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from rpc import Connection, calling, refused
from served import launched, make

SERVICE = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Ask = health_pb2.HealthCheckRequest


def test_check(connection: Connection) -> None:
    health: Any = health_pb2_grpc.HealthStub(connection.channel)
    assert health.Check(Ask()).status == SERVING
    assert health.Check(Ask(service=SERVICE)).status == SERVING
    with pytest.raises(grpc.RpcError) as error:
        health.Check(Ask(service="nobody"))
    assert refused(error.value)[0] == "NOT_FOUND"
    assert next(iter(health.Watch(Ask(service="nobody")))).status == UNKNOWN


def test_a_server_that_is_not_ready_and_one_that_drains(tmp_path: Any) -> None:
    bad = make(tmp_path, "memory", edit=lambda flat: {n: v + 1 for n, v in flat.items()})
    with launched("--grpc-port", 0, bad) as process, calling(process) as found:
        health: Any = health_pb2_grpc.HealthStub(found.channel)
        assert process.line().startswith("failed: ")
        assert health.Check(Ask()).status == NOT_SERVING
    good = make(tmp_path, "half")
    options = ("--grpc-port", 0, "--drain-seconds", 60)
    with launched(*options, good) as process, calling(process) as found:
        assert process.line() == "ready: half/1"
        health = health_pb2_grpc.HealthStub(found.channel)
        watched = iter(health.Watch(Ask()))
        assert next(watched).status == SERVING
        process.popen.terminate()
        assert next(watched).status == NOT_SERVING
        assert health.Check(Ask()).status == NOT_SERVING
        assert found.raw("ServerLive", b"") == b"\x08\x01"
        assert found.raw("ServerReady", b"") == b""
        process.popen.terminate()  # the second signal ends the wait
        assert list(watched) == []
        assert process.popen.wait(60) == 0


def test_reflection_lists_the_services_and_gives_the_messages(connection: Connection) -> None:
    database = ProtoReflectionDescriptorDatabase(connection.channel)
    services = set(database.get_services())
    assert {SERVICE, "grpc.health.v1.Health"} <= services
    pool = DescriptorPool(database)
    service = pool.FindServiceByName(SERVICE)
    assert service.methods_by_name["ModelInfer"].input_type.name == "ModelInferRequest"
    fields = pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name
    assert fields["raw_input_contents"].number == 7
