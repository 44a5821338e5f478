"""Sends what handlers return: encoded here, counted in the account of outstanding bytes until the client takes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from flagsvc.api.common.answers import MAX_ANSWER_BYTES, MAX_SET_BYTES
from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.outflow import STALL_S, UNCOUNTED_BYTES, Outflow
from flagsvc.api.common.peers import Peers
from flagsvc.core.errors import AnswerTooLarge, Overloaded

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Encode = Callable[[Any], bytes] | None
SLOWEST_BYTES_PER_S = 262_144
"""A message has STALL_S to be taken, and longer in proportion to its size: gRPC does not say how far it has got."""
_WHOLE_SETS = frozenset({"/flagd.sync.v1.FlagSyncService/FetchAllFlags"})


class Sender:
    """Encodes and counts the messages of every call. Handlers return messages, or bytes that are encoded already."""

    def __init__(self, outflow: Outflow, peers: Peers) -> None:
        self._outflow, self._peers = outflow, peers
        self._endings: set[asyncio.Task[None]] = set()

    def answer(self, method: str, message: Any, encode: Encode, context: Context) -> bytes:
        """Return a unary call's answer. Raises AnswerTooLarge, or Overloaded if too much waits for slow clients."""
        data = _encoded(message, encode)
        size = len(data)
        if size > UNCOUNTED_BYTES:
            limit = MAX_SET_BYTES if method in _WHOLE_SETS else MAX_ANSWER_BYTES
            if size > limit:
                raise AnswerTooLarge(limit, "ask for less at a time")
            peer, outflow = context.peer(), self._outflow
            outflow.take(peer, size)

            def taken(_: object) -> None:
                outflow.release(peer, size)

            context.add_done_callback(taken)  # type: ignore[arg-type]  # the stubs want a class of theirs
        return data

    async def stream(
        self, method: str, messages: AsyncIterator[Any], encode: Encode, context: Context
    ) -> AsyncIterator[bytes]:
        """Yield a stream's messages, each once there is room for it. A stream whose client does not read them ends."""
        peer, loop, task = context.peer(), asyncio.get_running_loop(), asyncio.current_task()
        begun = False
        async for message in messages:
            data = _encoded(message, encode)
            size = len(data)
            await self._outflow.reserve(peer, size)
            waiting = _Waiting(peer, size)
            try:
                if not begun:
                    # gRPC cannot send a status beside a message that waits unless the headers were sent on their own.
                    try:
                        await context.send_initial_metadata(())
                    except Exception:  # noqa: BLE001  gRPC's own class is private: the client is gone
                        return
                    begun = True
                allowed_s = STALL_S + size / SLOWEST_BYTES_PER_S
                stall = loop.call_later(allowed_s, self._end_stalled, method, context, task, waiting)
                try:
                    yield data
                finally:
                    stall.cancel()
            finally:
                if not waiting.has_stalled:
                    self._outflow.release(peer, size)

    def _end_stalled(self, method: str, context: Context, task: asyncio.Task[Any] | None, waiting: _Waiting) -> None:
        """End a stream's handler. Its last message stays in the account: gRPC holds it until the client is gone."""
        waiting.has_stalled = True
        self._outflow.stalled += 1
        detail = "A client did not take a message in time, so its stream ends."
        peer = self._peers.of(context)
        log.warning("stream_stalled", method=method, peer=peer, waiting_bytes=waiting.size, detail=detail)
        ending = asyncio.get_running_loop().create_task(self._end(method, context, waiting.peer, waiting.size))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        if task is not None:
            task.cancel()

    async def _end(self, method: str, context: Context, peer: str, size: int) -> None:
        """Send the status behind the message that waits, and wait until both are taken or the client is gone."""
        allowed_s = STALL_S + size / SLOWEST_BYTES_PER_S
        text = f"this stream did not take a message of {size} bytes in {allowed_s:.0f} s; read faster, or reconnect"
        failure = failure_for(method, Overloaded(text))
        try:
            with contextlib.suppress(Exception):  # AbortError, or the client is gone
                await context.abort(failure.code, failure.message, failure.trailers())
        finally:
            self._outflow.release(peer, size)


@dataclass(slots=True)
class _Waiting:
    """A message that waits for its client."""

    peer: str
    size: int
    has_stalled: bool = False


def _encoded(message: Any, encode: Encode) -> bytes:
    if isinstance(message, bytes) or encode is None:
        return message  # type: ignore[no-any-return]
    return encode(message)
