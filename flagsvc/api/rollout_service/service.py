"""flagsvc.v1.RolloutService. Each handler unpacks, calls once and packs; the interceptor maps errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import grpc

from flagsvc.api.common.answers import sendable
from flagsvc.api.flag_service import messages
from flagsvc.api.flag_service.authors import author_of
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.api.flag_service.rollout_messages import packed, timestamp
from flagsvc.core import validation
from flagsvc.core.changes import change_rollout
from flagsvc.core.errors import invalid
from flagsvc.core.flag_rollouts import existing_rollout
from flagsvc.core.model import Flag, Status
from flagsvc.core.rollouts import Rollout, next_step, paused, resumed, rolled_back, share_at
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as pb_grpc
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]
Changed = pb.PauseRolloutResponse | pb.ResumeRolloutResponse | pb.RollbackRolloutResponse
MAX_BACK_S = 10 * 365 * 86_400
"""Longest way back."""


class Parts(Protocol):
    """The parts of a replica that the service calls."""

    reader: Reader
    writer: Writer


class RolloutService(pb_grpc.RolloutServiceServicer):
    """Serves flagsvc.v1.RolloutService. `clock`: seconds since 1970, as evaluations read them."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.time) -> None:
        self._reader, self._writer, self._clock = parts.reader, parts.writer, clock

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        """Return the share of now, and the next step."""
        flag, _ = await self._reader.get(validation.flag_id(request.flag_set, request.flag_key))
        return pb.GetRolloutResponse(status=_status(flag, self._clock()), revision=flag.revision)

    async def PauseRollout(self, request: pb.PauseRolloutRequest, context: Context) -> Any:
        """Keep the share of now."""
        return await self._change(request, pb.PauseRolloutResponse, paused)

    async def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: Context) -> Any:
        """Let a paused rollout go on."""
        return await self._change(request, pb.ResumeRolloutResponse, resumed)

    async def RollbackRollout(self, request: pb.RollbackRolloutRequest, context: Context) -> Any:
        """Move callers back."""
        seconds = _seconds(request) if request.HasField("over") else None
        return await self._change(request, pb.RollbackRolloutResponse, partial(rolled_back, seconds=seconds))

    async def _change(
        self, request: Any, response_type: type[Changed], change: Callable[[Rollout, float], Rollout]
    ) -> bytes:
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected = validation.etag_revision(request.etag)
        decide = change_rollout(flag_id.key, change, expected, author_of(request))
        written = await self._writer.write(flag_id, decide, messages.wait_for(request))
        assert written is not None  # noqa: S101  only an import decides to write nothing
        assert written.entry.flag is not None  # noqa: S101  only a deletion has no flag
        flag, spread = written.entry.flag, messages.spread_to_message(written)
        status = _status(flag, self._clock())
        return await off_loop(_encoded, response_type, flag, spread, status)


def _encoded(response_type: type[Changed], flag: Flag, spread: Any, status: pb.RolloutStatus) -> bytes:
    message = sendable(flag_to_message(flag))
    return response_type(flag=message, spread=spread, status=status).SerializeToString()


def _status(flag: Flag, now: float) -> pb.RolloutStatus:
    """Return a rollout at a moment. Raises RolloutMissing, and InvalidRequest for a stored one that is malformed."""
    rollout = existing_rollout(flag)
    status = pb.RolloutStatus(
        rollout=packed(rollout),
        state=_state(rollout, now),
        time=timestamp(int(now)),
        share=_percent(rollout, now),
        enabled=flag.status in (Status.ENABLED, Status.BETA),
    )
    if (later := next_step(rollout, now)) is not None:
        status.next_time.CopyFrom(timestamp(later))
        status.next_share = _percent(rollout, later)
    return status


def _percent(rollout: Rollout, at: float) -> float:
    return round(float(share_at(rollout, at)) * 100, 3)


def _state(rollout: Rollout, now: float) -> pb.RolloutState.ValueType:
    if rollout.paused_at is not None:
        return pb.ROLLOUT_STATE_PAUSED
    if next_step(rollout, now) is None:
        return pb.ROLLOUT_STATE_FINISHED
    return pb.ROLLOUT_STATE_PLANNED if now < rollout.points[0].time else pb.ROLLOUT_STATE_RUNNING


def _seconds(request: pb.RollbackRolloutRequest) -> int:
    over = request.over
    if over.nanos or not 0 <= over.seconds <= MAX_BACK_S:
        raise invalid("over", f"{over.seconds + over.nanos / 1e9:g} s", f"whole seconds, 0 to {MAX_BACK_S}")
    return over.seconds
