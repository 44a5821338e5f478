"""The methods of all services that the client calls."""

from __future__ import annotations

from typing import Any

from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc_client.stubs.flagsvc.v1 import rollout_service_pb2_grpc as rollout_pb_grpc
from flagsvc_client.stubs.flagsvc.v1 import schedule_service_pb2_grpc as schedule_pb_grpc
from flagsvc_client.stubs.flagsvc.v1 import segment_service_pb2_grpc as segment_pb_grpc


def stub_of(channel: Any) -> Any:
    """Return an object with a method for each RPC, by its name."""
    stub = pb_grpc.FlagServiceStub(channel)
    others = (
        schedule_pb_grpc.ScheduleServiceStub,
        rollout_pb_grpc.RolloutServiceStub,
        segment_pb_grpc.SegmentServiceStub,
    )
    for other in others:
        vars(stub).update(vars(other(channel)))
    return stub
