"""A bare grpc.aio server that answers every EvaluateFlag with one prebuilt message: the cost of the transport alone."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types


class Echo(pb_grpc.FlagServiceServicer):
    """Answers without reading the request."""

    def __init__(self) -> None:
        evaluation = pb.FlagEvaluation(
            flag_key="flag-0000",
            value=types.Value(boolean_value=True),
            variant="on",
            reason=types.REASON_STATIC,
            revision=1,
            source=types.DEFINITION_SOURCE_NEAR_CACHE,
            enabled=True,
            status=types.FLAG_STATUS_ENABLED,
        )
        self._response = pb.EvaluateFlagResponse(evaluation=evaluation)

    async def EvaluateFlag(self, request: pb.EvaluateFlagRequest, context: Any) -> pb.EvaluateFlagResponse:  # noqa: ARG002, N802
        """Return the prebuilt response."""
        return self._response


async def serve(port: int) -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_FlagServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
