"""A caller that has left before its answer is no fault of the server: nothing is logged, no traceback is left."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from structlog.testing import capture_logs

from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.interceptors import _abort

CHECK = "/grpc.health.v1.Health/Check"


class Gone:
    """The context of a call whose caller has left: gRPC can send nothing."""

    async def abort(self, *_: object) -> None:
        raise grpc.aio.InternalError("Failed to execute a batch")


async def test_an_error_that_cannot_be_sent_ends_the_call_quietly() -> None:
    with capture_logs() as logs:
        failure = failure_for(CHECK, grpc.aio.InternalError("Failed to execute a batch"))
        with pytest.raises(asyncio.CancelledError):
            await _abort(Gone(), CHECK, failure)
    assert failure.code is grpc.StatusCode.CANCELLED
    assert logs == []
