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
from flagsvc.api.flag_service.writes import RequestedWrites
from flagsvc.core import validation
from flagsvc.core.changes import change_rollout
from flagsvc.core.errors import invalid
from flagsvc.core.flag_rollouts import existing_rollout
from flagsvc.core.model import Flag, Status
from flagsvc.core.rollouts import Rollout, paused, resumed, rolled_back, standing_at
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as pb_grpc
from flagsvc.ports import FlagStore
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer, WriteResult
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]
Changed = pb.PauseRolloutResponse | pb.ResumeRolloutResponse | pb.RollbackRolloutResponse
MAX_BACK_S = 10 * 365 * 86_400
"""Longest way back."""


class Parts(Protocol):
    """The parts of a replica that the service calls."""

    store: FlagStore
    reader: Reader
    writer: Writer


class RolloutService(pb_grpc.RolloutServiceServicer):
    """Serves flagsvc.v1.RolloutService. `clock`: seconds since 1970, as evaluations read them."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.time) -> None:
        self._reader, self._clock = parts.reader, clock
        self._writes = RequestedWrites(parts.store, parts.writer)

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
        written = await self._writes.make(request, flag_id, decide)
        assert written.entry.flag is not None  # noqa: S101  only a deletion has no flag
        flag, status = written.entry.flag, _status(written.entry.flag, self._clock())
        spread = messages.spread_to_message(written) if isinstance(written, WriteResult) else None
        return await off_loop(_encoded, response_type, flag, spread, status)


def _encoded(response_type: type[Changed], flag: Flag, spread: Any, status: pb.RolloutStatus) -> bytes:
    message = sendable(flag_to_message(flag))
    return response_type(flag=message, spread=spread, status=status).SerializeToString()


def _status(flag: Flag, now: float) -> pb.RolloutStatus:
    """Return a rollout at a moment. Raises RolloutMissing, and InvalidRequest for a stored one that is malformed."""
    rollout = existing_rollout(flag)
    standing = standing_at(rollout, now)
    status = pb.RolloutStatus(
        rollout=packed(rollout),
        state=pb.RolloutState.Value(f"ROLLOUT_STATE_{standing.state}"),
        time=timestamp(int(now)),
        share=standing.share,
        enabled=flag.status in (Status.ENABLED, Status.BETA),
    )
    if standing.next_time is not None and standing.next_share is not None:
        status.next_time.CopyFrom(timestamp(standing.next_time))
        status.next_share = standing.next_share
    return status


def _seconds(request: pb.RollbackRolloutRequest) -> int:
    over = request.over
    if over.nanos or not 0 <= over.seconds <= MAX_BACK_S:
        raise invalid("over", f"{over.seconds + over.nanos / 1e9:g} s", f"whole seconds, 0 to {MAX_BACK_S}")
    return over.seconds
