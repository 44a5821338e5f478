"""Calls that the front's thread leaves to the event loop: the same handlers as over any other transport answer them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc

from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.handlers import Handler
from flagsvc.api.connect.context import CallContext
from flagsvc.api.connect.statuses import Metadata, Status
from flagsvc.core.errors import DeadlinePassed


class Call(NamedTuple):
    """A call as the front reports it. `seconds`: until its deadline; None without one."""

    number: int
    path: str
    payload: bytes
    metadata: Metadata
    peer: str
    seconds: float | None


class Front(Protocol):
    """What answers calls by their number."""

    def answer(self, number: int, payload: bytes) -> None:
        """Answer a call."""

    def fail(self, number: int, status: Status, *, headers_first: bool) -> None:
        """End a call with a status. `headers_first`: its headers go out on their own before."""


class LoopCalls:
    """The calls of one front that run in the event loop. All methods run there too.

    `given`, `refused`: calls that the front's thread has left to the loop, and those that were too many; only that
    thread writes them. `ended`: calls that the loop has ended.
    """

    def __init__(self, front: Front, handler_of: Callable[[str], Handler | None]) -> None:
        self._front, self._handler_of = front, handler_of
        self.given = self.refused = self.ended = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, events: list[Call | int]) -> None:
        """Answer calls, each in a task of its own, and end those, given by their numbers, whose clients have left."""
        for event in events:
            if isinstance(event, Call):
                task = asyncio.get_running_loop().create_task(self._run(event))
                self._tasks[event.number] = task
                task.add_done_callback(partial(self._forget, event.number))
            elif (found := self._tasks.get(event)) is not None:
                found.cancel()

    def _forget(self, number: int, _: object) -> None:
        self.ended += 1
        del self._tasks[number]

    async def _run(self, call: Call) -> None:
        handler = self._handler_of(call.path)
        assert handler is not None  # noqa: S101  the front knows only paths of methods
        unary: Any = handler.stream_unary

        async def read() -> object:
            return handler.request_deserializer(call.payload) if handler.request_deserializer else call.payload

        answer, has_begun = b"", False

        async def begin() -> None:
            nonlocal has_begun
            has_begun = True

        context = CallContext(call.peer, call.metadata, call.seconds, read)
        context.begin = begin
        try:
            async with asyncio.timeout(call.seconds):
                answer = await unary(None, context)
            status = context.status
        except grpc.aio.AbortError:
            status = context.status
        except TimeoutError:
            status = status_of(call.path, DeadlinePassed("the call's deadline has passed"))
        except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
            status = status_of(call.path, error)
        finally:
            context.end()
        if status.code is grpc.StatusCode.OK:
            self._front.answer(call.number, answer)
        else:
            self._front.fail(call.number, status, headers_first=has_begun)


def status_of(path: str, error: Exception) -> Status:
    """Return the status for an error that no handler has mapped."""
    failure = failure_for(path, error)
    return Status(failure.code, failure.message, failure.trailers())
