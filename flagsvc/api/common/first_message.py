"""Reading a call's message, within a time: a call that is opened and sends none must not stay.

gRPC reads a unary call's message before it calls a handler, and would wait for ever. So every method is registered
as one whose request streams, and its message is read here.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from flagsvc.core.errors import DeadlinePassed, invalid

Context = grpc.aio.ServicerContext[Any, Any]


class FirstMessages:
    """The calls of one server whose message is awaited: at most `limit`, each at most `seconds`.

    With more, the one that waits longest is ended. A caller sends the message with the call's headers, so whoever
    still waits when hundreds have come later is not about to send it. `begun`: how many calls there were in all.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._since: dict[asyncio.Task[Any], float] = {}  # in the order of their beginning
        self._sweep: asyncio.TimerHandle | None = None
        self.begun = self.ended = 0

    @property
    def waiting(self) -> int:
        """Number of calls that wait for their message."""
        return len(self._since)

    async def of(self, context: Context) -> Any:
        """Return the message of the call that runs in this task. Raises DeadlinePassed or InvalidRequest."""
        task, since = asyncio.current_task(), self._since
        assert task is not None  # noqa: S101  a call runs in a task
        self.begun += 1
        since[task] = time.monotonic()
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._seconds, self._end_late)
        if len(since) > self._limit:
            self._end(next(iter(since)))
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if task in since:
                raise  # the caller left
            task.uncancel()
            raise DeadlinePassed("the call was opened, and its message did not arrive in time") from None
        finally:
            since.pop(task, None)
        if message is grpc.aio.EOF:
            raise invalid("request", "no message", "one message", "INVALID_REQUEST")
        if context.time_remaining() == 0:
            raise DeadlinePassed("the call's deadline has passed")
        return message

    def _end(self, task: asyncio.Task[Any]) -> None:
        del self._since[task]
        self.ended += 1
        task.cancel()

    def _end_late(self) -> None:
        """End the calls whose time is over, and look again when the next one's is."""
        now, self._sweep = time.monotonic(), None
        while self._since:
            task, began = next(iter(self._since.items()))
            if now - began < self._seconds:
                self._sweep = asyncio.get_running_loop().call_later(began + self._seconds - now, self._end_late)
                return
            self._end(task)
