"""The front's thread: takes calls in batches, answers those that it can, and hands the rest to the event loop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import grpc
from pygrpc_native import EVENT_CALL

from flagsvc.api.common.lateness import Lateness
from flagsvc.api.common.peers import peer_name
from flagsvc.api.common.request_limits import MAX_REQUEST_BYTES
from flagsvc.api.connect.statuses import Status
from flagsvc.call_times import Timer
from flagsvc.core.errors import Overloaded
from flagsvc.native.direct import Answer
from flagsvc.native.loop_calls import Call, Ending, Ends, ended_by

BATCH = 128
"""Calls that are received at a time, which takes about half a millisecond."""
TURN_S = 0.001
"""Seconds of work after which the thread waits for one turn of the event loop."""
TURN_MAX_S = 0.01
"""Seconds that it waits at most: a loop that is held up does not hold up the calls that need no loop."""
PAUSE_S = 0.0002
"""Seconds without a call after which the loop has had its turn."""
LATE_S = 0.25
"""Seconds after which a call that still waits is refused, once calls have been late for a while (`Lateness`)."""
FULL = "the server gets more calls than it can answer in time; retry later"
_MAPPED = "ipv6:[::ffff:"


class Method(NamedTuple):
    """A method of the front. `answer` None: the event loop answers it. `timer`: counts its calls in the thread."""

    path: str
    answer: Answer | None
    timer: Timer

    @property
    def full(self) -> Ending:
        """How a call ends that is refused because there are too many."""
        return ended_by(self.path, Overloaded(FULL))


class Receiver(Protocol):
    """What the thread uses of the front."""

    def recv_batch_details(self, max_events: int, timeout_ms: int | None = None) -> list[Any] | None:
        """Return what has arrived, waiting for it at most so long; None once the front is closed."""


class Loop(Protocol):
    """The event loop, as the thread calls it. `given`: how many calls it was given; only the thread writes it."""

    given: int

    @property
    def has_room(self) -> bool:
        """Whether it takes another call."""

    def hand_over(self, events: list[Call | int]) -> None:
        """Let it answer calls, and end those, given by their numbers, whose clients have left."""

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function there in its next turn. Raises RuntimeError if the loop is closed."""


class Answering:
    """One thread's work. `refused`: calls refused because they waited too long, or the loop had no room."""

    def __init__(
        self,
        receiver: Receiver,
        methods: Sequence[Method],
        loop: Loop,
        sender: Ends,
        is_stopping: Callable[[], bool],
    ) -> None:
        """`is_stopping`: new calls are refused, by the event loop."""
        self._receive, self._loop, self._is_stopping = receiver.recv_batch_details, loop, is_stopping
        self._answer, self._fail = sender.answer, sender.fail
        self._methods = tuple((*method, method.full) for method in methods)
        self._waiting: deque[tuple[float, list[Any]]] = deque()
        self._turn = threading.Event()
        self._lateness = Lateness(lambda _: None)
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many calls have been received and wait. It may be read in any thread."""
        return sum(len(events) for _, events in tuple(self._waiting))

    def run(self) -> None:
        """Answer until the front is closed."""
        worked_s, asked_at = 0.0, time.monotonic()
        while (events := self._receive(BATCH, 0 if self._waiting else None)) is not None:
            received_at = time.monotonic()
            if received_at - asked_at > PAUSE_S:
                worked_s = 0.0  # it has waited, without the interpreter
            if events:
                events.reverse()  # the first is popped first
                self._waiting.append((received_at, events))
            asked_at = self._work(received_at + TURN_S - worked_s)
            worked_s += asked_at - received_at
            if worked_s >= TURN_S:
                self._wait_for_turn()
                worked_s, asked_at = 0.0, time.monotonic()

    def _work(self, until: float) -> float:
        """Answer what waits, the first first, until all is done or a moment has come; return when it ended."""
        left: list[Call | int] = []
        waiting, now = self._waiting, time.monotonic()
        while waiting:
            received_at, events = waiting[0]
            self._lateness.measured(now - received_at, now)
            while events:
                self._take(events.pop(), received_at, now, left)
                now = time.monotonic()
                if now >= until:
                    break
            if not events:
                waiting.popleft()
            if now >= until:
                break
        if left:
            self._loop.hand_over(left)
        return now

    def _take(self, event: Any, received_at: float, now: float, left: list[Call | int]) -> None:
        """Answer one call, refuse it, or leave it to the event loop."""
        kind, number, method, payload, _, details = event
        if kind != EVENT_CALL:
            left.append(number)
            return
        metadata, peer, seconds = details
        waited_s = now - received_at
        if seconds is not None and seconds <= waited_s:
            return  # its deadline has passed, and its client is gone
        path, respond, timer, full = self._methods[method]
        if len(payload) > MAX_REQUEST_BYTES:
            self._fail(number, _too_large(len(payload)))
            timer.ended("INVALID_ARGUMENT", 0.0)  # which the handlers give a call without a message that can be read
            return
        if waited_s > LATE_S and self._lateness.is_late:
            self._refuse(number, timer, full, waited_s)
            return
        if peer.startswith(_MAPPED):
            peer = _unmapped(peer)
        if respond is not None and not self._is_stopping():
            answer = respond(payload, metadata, peer)
            if answer is not None:
                try:
                    self._answer(number, answer)
                    timer.ended("OK", time.monotonic() - now)
                except Overloaded as error:
                    self._refuse(number, timer, ended_by(path, error), waited_s)
                return
        if self._loop.has_room:
            self._loop.given += 1
            left.append(Call(number, path, payload, metadata, peer, None if seconds is None else seconds - waited_s))
        else:
            self._refuse(number, timer, full, waited_s)

    def _refuse(self, number: int, timer: Timer, full: Ending, seconds: float) -> None:
        self.refused += 1
        self._fail(number, full)
        timer.ended(full.status.code.name, seconds)

    def _wait_for_turn(self) -> None:
        """Let the event loop go round once. Else it competes with this thread for the interpreter."""
        self._turn.clear()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon(self._turn.set)
            self._turn.wait(TURN_MAX_S)


def _too_large(size: int) -> Ending:
    """Return how a call ends whose message is larger than any may be: as over grpcio."""
    text = f"SERVER: Received message larger than max ({size} vs. {MAX_REQUEST_BYTES})"
    return Ending(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text))


@lru_cache(maxsize=10_000)
def _unmapped(peer: str) -> str:
    """Return the name of an IPv4 caller of a socket that listens on both, as gRPC has it."""
    host, _, port = peer.removeprefix("ipv6:[").rpartition("]:")
    return peer_name((host, int(port)))
