"""Limits on concurrent calls and streams, shared by every protocol, and the refusal of new ones during shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from flagsvc.core.errors import Overloaded, Stopping

LINGER_S = 0.1
LINGER_MAX_S = 1.0


class _Slots:
    """A limited counter as a context manager. One instance serves all calls, so that a call allocates nothing."""

    __slots__ = ("_limit", "_what", "taken")

    def __init__(self, limit: int, what: str) -> None:
        self._limit, self._what = limit, what
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self._limit:
            raise Overloaded(f"the server is at its limit of {self._limit} concurrent {self._what}; retry later")
        self.taken += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.taken -= 1


class Admission:
    """Admits unary calls (`with admission.call():`) and streams (`with admission.stream():`), each to its own limit."""

    def __init__(self, max_calls: int, max_streams: int) -> None:
        self._calls = _Slots(max_calls, "calls")
        self._streams = _Slots(max_streams, "streams")
        self._stopping = False
        self._refused_at = 0.0

    @property
    def in_progress(self) -> tuple[int, int]:
        """Number of calls and number of streams in progress."""
        return self._calls.taken, self._streams.taken

    def call(self) -> _Slots:
        """Admit a unary call for the length of a `with` block. Raises Overloaded or Stopping."""
        if self._stopping:
            self._refuse()
        return self._calls

    def stream(self) -> _Slots:
        """Admit a stream for the length of a `with` block. Raises Overloaded or Stopping."""
        if self._stopping:
            self._refuse()
        return self._streams

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, and wait at most `grace_s` seconds for the calls and streams in progress."""
        self._stopping = True
        await _until(lambda: self.in_progress == (0, 0), grace_s)
        # A call that arrives while the transport closes would be cut off. Wait until callers have stopped calling.
        await _until(lambda: time.monotonic() - self._refused_at > LINGER_S, LINGER_MAX_S)

    def _refuse(self) -> None:
        self._refused_at = time.monotonic()
        raise Stopping


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  ends at the deadline
        await asyncio.sleep(0.01)
