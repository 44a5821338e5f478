"""The account of bytes that were written to clients and are not taken yet, of all connections of a process.

gRPC completes a write only once the client's flow control has let all of a message pass, so a message waits in memory
as long as its client does not read. Small messages may use all of the account, large ones three quarters of it: what
slow readers of large answers take never stops small answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from flagsvc.core.errors import Overloaded

STALL_S = 60.0
"""Seconds after which a stream ends whose client does not take what waits for it. An idle stream never ends so."""
SMALL_BYTES = 16_384
"""Messages up to this size never wait for room."""
UNCOUNTED_BYTES = 1_024
"""Answers to unary calls up to this size are not counted: a call itself takes more."""
_LARGE_SHARE = 0.75
_CONNECTION_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    peer: str
    size: int
    room: asyncio.Future[None]


class Outflow:
    """Bytes outstanding in all and for each connection. Alone, a message of any size is sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.outstanding = 0
        self.stalled = 0
        """How many streams were ended because their clients did not read."""
        self._by_peer: Counter[str] = Counter()
        self._waiting: dict[_Waiting, None] = {}

    def take(self, peer: str, size: int) -> None:
        """Count a message that is sent at once. Raises Overloaded where there is no room for it."""
        if not self._has_room(peer, size):
            raise Overloaded(
                f"{self.outstanding} bytes wait for clients that do not read, too many to add {size}; retry later"
            )
        self._add(peer, size)

    async def reserve(self, peer: str, size: int) -> None:
        """Count a message of a stream; a large one waits for room. Raises Overloaded after STALL_S."""
        if size <= SMALL_BYTES or (not self._waiting and self._has_room(peer, size)):
            self._add(peer, size)
            return
        waiting = _Waiting(peer, size, asyncio.get_running_loop().create_future())
        self._waiting[waiting] = None
        self._admit_waiting()
        try:
            async with asyncio.timeout(STALL_S):
                await waiting.room
        except BaseException as error:
            if waiting in self._waiting:
                del self._waiting[waiting]
            else:
                self.release(peer, size)  # room was made in the same step
            if not isinstance(error, TimeoutError):
                raise
            raise Overloaded(
                f"{self.outstanding} bytes wait for clients that do not read, so this stream waited"
                f" {STALL_S:g} s in vain for room to send {size}; retry later"
            ) from None

    def release(self, peer: str, size: int) -> None:
        """Record that the client has taken a message, or is gone."""
        self.outstanding -= size
        self._by_peer[peer] -= size
        if self._by_peer[peer] <= 0:
            del self._by_peer[peer]
        self._admit_waiting()

    def _has_room(self, peer: str, size: int) -> bool:
        if size <= SMALL_BYTES:
            return self.outstanding + size <= self._limit
        return self._fits_in_all(size) and self._fits_connection(peer, size)

    def _fits_in_all(self, size: int) -> bool:
        return not self.outstanding or self.outstanding + size <= self._limit * _LARGE_SHARE

    def _fits_connection(self, peer: str, size: int) -> bool:
        of_peer = self._by_peer.get(peer, 0)
        return not of_peer or of_peer + size <= self._limit * _CONNECTION_SHARE

    def _add(self, peer: str, size: int) -> None:
        self.outstanding += size
        self._by_peer[peer] += size

    def _admit_waiting(self) -> None:
        """Admit who waits, the first first. One whose own connection is full does not stop those behind it."""
        for waiting in list(self._waiting):
            if waiting.room.done():  # its stream is gone
                continue
            if not self._fits_in_all(waiting.size):
                break
            if self._fits_connection(waiting.peer, waiting.size):
                del self._waiting[waiting]
                self._add(waiting.peer, waiting.size)
                waiting.room.set_result(None)
