"""Ends calls of the front, and bounds what waits in it for clients that do not read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from pygrpc_native import STREAM_SENT

from flagsvc.api.common.outflow import UNCOUNTED_BYTES
from flagsvc.core.errors import Overloaded
from flagsvc.native.loop_calls import Ending

READ_EVERY_S = 0.01
"""Seconds for which the front's counts are taken as they were read."""
_ALONE_SHARE = 0.25
_INTERNAL = 13


class Front(Protocol):
    """What is used of the front. Every method may be called in any thread."""

    def stream_try_send(self, call_id: int, payload: bytes) -> int:
        """Send a message; return STREAM_SENT, or something else if it will not be sent."""

    def stream_end(self, call_id: int) -> None:
        """End a call with OK."""

    def stream_send_initial_metadata(self, call_id: int, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        """Send the headers on their own."""

    def fail(
        self, call_id: int, code: int, message: str, trailing_metadata: Sequence[tuple[str, str | bytes]] | None = None
    ) -> bool:
        """End a call with a status."""

    def metrics(self) -> dict[str, Any] | None:
        """Return what the front counts."""


class Sender:
    """Ends calls for one thread. `given`: bytes of answers that it gave to the front; only that thread writes it."""

    def __init__(self, front: Front, unread: Unread) -> None:
        self._front, self._unread = front, unread
        self.given = 0
        unread.senders.append(self)

    def answer(self, number: int, payload: bytes) -> None:
        """Answer a call. Raises Overloaded, for a large answer, if too much waits for clients that do not read."""
        size = len(payload)
        if size > UNCOUNTED_BYTES:
            self._unread.check(size)
        self.given += size
        if self._front.stream_try_send(number, payload) != STREAM_SENT:
            self.given -= size  # its client is gone
        self._front.stream_end(number)

    def fail(self, number: int, ending: Ending) -> None:
        """End a call with a status."""
        front, status = self._front, ending.status
        try:
            if ending.headers_first:
                front.stream_send_initial_metadata(number, ())
            front.fail(number, status.code.value[0], status.message, list(status.trailers))
        except ValueError:  # metadata that HTTP/2 cannot have; without this the call would never end
            front.fail(number, _INTERNAL, "the status cannot be sent")


class Unread:
    """Bytes of answers that were given to the front, and that no client has taken yet.

    The front does not say which answers were taken, only how many bytes all calls had that have ended. An answer that
    its client left in the moment between counts until nothing is in progress. `limit`: of all bytes together.
    """

    def __init__(self, front: Front, limit: int) -> None:
        self._front, self._limit = front, limit
        self.senders: list[Sender] = []
        self._taken = self._lost = 0
        self._read_at = 0.0

    @property
    def bytes(self) -> int:
        """How many there are, as last read."""
        return max(0, self._given() - self._taken - self._lost)

    def check(self, size: int) -> None:
        """Raise Overloaded if there is no room for an answer. Beside small ones alone, one of any size is sent."""
        now = time.monotonic()
        if now - self._read_at > READ_EVERY_S:
            self._read_at = now
            self.read()
        waiting = self.bytes
        if waiting + size > self._limit and waiting > self._limit * _ALONE_SHARE:
            raise Overloaded(f"{waiting} bytes wait for clients that do not read, too many to add {size}; retry later")

    def read(self) -> None:
        """Read the front's counts."""
        given, found = self._given(), self._front.metrics() or {"methods": {}}
        taken = in_progress = 0
        for method in found["methods"].values():
            in_progress += method["started"]
            for ended in method["status"].values():
                in_progress -= ended["count"]
                taken += ended["sent"]["sum"]
        self._taken = taken
        if not in_progress and given == self._given():
            self._lost = given - taken

    def _given(self) -> int:
        return sum(sender.given for sender in self.senders)
