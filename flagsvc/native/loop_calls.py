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
from flagsvc.core.errors import DeadlinePassed, Overloaded


class Call(NamedTuple):
    """A call as the front reports it. `seconds`: until its deadline; None without one."""

    number: int
    path: str
    payload: bytes
    metadata: Metadata
    peer: str
    seconds: float | None


class Ending(NamedTuple):
    """How a call fails. `headers_first`: its headers go out on their own before the status."""

    status: Status
    headers_first: bool = False


class Ends(Protocol):
    """What ends calls, by their numbers."""

    def answer(self, number: int, payload: bytes) -> None:
        """Answer a call. Raises Overloaded."""

    def fail(self, number: int, ending: Ending) -> None:
        """End a call with a status."""


class LoopCalls:
    """The calls of one front that run in the event loop. All other methods run there too, except `hand_over`.

    `given`: calls that the thread has left to the loop; only that thread writes it. `ended`: those that have ended.
    """

    def __init__(
        self, handler_of: Callable[[str], Handler | None], max_calls: int, before: Callable[[], object]
    ) -> None:
        """`max_calls`: how many it has at once. `before`: called before it begins with those that were handed over."""
        self._handler_of, self.max_calls, self._before = handler_of, max_calls, before
        self.sender: Ends
        self.given = self.ended = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.loop: asyncio.AbstractEventLoop

    @property
    def has_room(self) -> bool:
        """Whether it takes another call. For the front's thread."""
        return self.given - self.ended < self.max_calls

    def hand_over(self, events: list[Call | int]) -> None:
        """Let the loop answer calls, and end those, given by their numbers, whose clients have left. For the thread."""
        self.loop.call_soon_threadsafe(self._take, events)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's next turn. For the thread."""
        self.loop.call_soon_threadsafe(function)

    def _take(self, events: list[Call | int]) -> None:
        self._before()
        for event in events:
            if isinstance(event, Call):
                task = self.loop.create_task(self._run(event))
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
            ending = Ending(context.status, has_begun)
        except grpc.aio.AbortError:
            ending = Ending(context.status, has_begun)
        except TimeoutError:
            ending = ended_by(call.path, DeadlinePassed("the call's deadline has passed"))
        except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
            ending = ended_by(call.path, error)
        finally:
            context.end()
        if ending.status.code is grpc.StatusCode.OK:
            try:
                self.sender.answer(call.number, answer)
            except Overloaded as error:
                ending = ended_by(call.path, error)
            else:
                return
        self.sender.fail(call.number, ending)


def ended_by(path: str, error: Exception) -> Ending:
    """Return how a call ends by an error that no handler has mapped."""
    failure = failure_for(path, error)
    return Ending(Status(failure.code, failure.message, failure.trailers()), failure.sends_headers_first(path))
