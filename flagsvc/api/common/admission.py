"""Limits on concurrent calls and streams, in a pool for each kind of work, and the refusal of new ones.

A pool that is full, or slow, refuses its own kind only: writers that wait for a replica leave the evaluations' slots
alone, and OFREP's requests, which come in by another port, leave gRPC's alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flagsvc.core.errors import Overloaded, Stopping

LINGER_S = 0.1
LINGER_MAX_S = 1.0


@dataclass(slots=True)
class Gate:
    """What every pool refuses for: the server stops, or its event loop has been late for a while."""

    stopping: bool = False
    late: bool = False
    closed: bool = False
    """Whether either is true: the only attribute that an admitted call reads."""
    refused_at: float = 0.0

    def set(self, *, stopping: bool | None = None, late: bool | None = None) -> None:
        """Change one or both."""
        self.stopping = self.stopping if stopping is None else stopping
        self.late = self.late if late is None else late
        self.closed = self.stopping or self.late


@dataclass(slots=True)
class Pool:
    """A limited number of slots, as a context manager: one instance for all calls, so that a call allocates nothing.

    `sheds`: whether it also refuses while the event loop is late. Writes do not: an operator's switch goes first.
    """

    name: str
    limit: int
    gate: Gate = field(default_factory=Gate)
    sheds: bool = False
    taken: int = 0
    refused: int = 0

    def check(self) -> None:
        """Raise Overloaded or Stopping if a call would be refused now. It takes no slot."""
        if self.gate.closed:
            self._check_gate()
        if self.taken >= self.limit:
            self.refused += 1
            raise Overloaded(f"the server is at its limit of {self.limit} concurrent {self.name}; retry later")

    def _check_gate(self) -> None:
        if self.gate.stopping:
            self.gate.refused_at = time.monotonic()
            raise Stopping
        if self.sheds:
            self.refused += 1
            raise Overloaded("the server gets more calls than it can answer in time; retry later")

    def __enter__(self) -> None:
        self.check()
        self.taken += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.taken -= 1


@dataclass(slots=True)
class StreamPool(Pool):
    """A pool of streams, in which one peer (one address) can have only a part of the slots."""

    per_peer: int = 1
    awaited: bool = True
    """Whether a stop waits for these streams to end."""
    peers: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def of(self, peer: str) -> Iterator[None]:
        """Take a slot for a peer for the length of a `with` block. Raises Overloaded or Stopping."""
        if self.peers[peer] >= self.per_peer:
            self.refused += 1
            raise Overloaded(f"{peer} is at its limit of {self.per_peer} concurrent {self.name}; retry later")
        with self:
            self.peers[peer] += 1
            try:
                yield
            finally:
                self.peers[peer] -= 1
                if not self.peers[peer]:
                    del self.peers[peer]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls or streams of each kind are admitted at once."""

    evaluations: int
    writes: int
    administration: int
    streams: int
    streams_per_peer: int


class Admission:
    """All pools of one server. Calls are admitted with `with admission.evaluations:`, streams with `of(peer)`."""

    def __init__(self, limits: Limits) -> None:
        self.gate, self._limits = Gate(), limits
        self.evaluations = Pool("evaluation calls", limits.evaluations, self.gate, sheds=True)
        self.ofrep = Pool("OFREP requests", limits.evaluations, self.gate, sheds=True)
        self.writes = Pool("writes", limits.writes, self.gate)
        self.administration = Pool("administrative calls", limits.administration, self.gate)
        self._streams: dict[str, StreamPool] = {}

    def streams(self, kind: str, *, awaited: bool = True) -> StreamPool:
        """Return the pool of one kind of stream: idle streams of one kind take no slot of another."""
        if kind not in self._streams:
            most, per_peer = self._limits.streams, self._limits.streams_per_peer
            self._streams[kind] = StreamPool(f"{kind} streams", most, self.gate, per_peer=per_peer, awaited=awaited)
        return self._streams[kind]

    @property
    def pools(self) -> Iterable[Pool]:
        """Every pool."""
        return (self.evaluations, self.ofrep, self.writes, self.administration, *self._streams.values())

    @property
    def in_progress(self) -> tuple[int, int]:
        """Number of calls and number of streams in progress that a stop waits for."""
        calls = (self.evaluations, self.ofrep, self.writes, self.administration)
        streams = (pool for pool in self._streams.values() if pool.awaited)
        return sum(pool.taken for pool in calls), sum(pool.taken for pool in streams)

    async def stop(self, grace_s: float, *, lingers: bool = True) -> None:
        """Refuse new calls, and wait at most `grace_s` seconds for the calls and streams in progress.

        `lingers`: wait for callers that have not noticed yet, also if none was refused so far.
        """
        self.gate.set(stopping=True)
        await _until(lambda: self.in_progress == (0, 0), grace_s)
        if lingers:
            self.gate.refused_at = time.monotonic()
        # A call that arrives while the transport closes would be cut off. Wait until callers have stopped calling.
        await _until(lambda: time.monotonic() - self.gate.refused_at > LINGER_S, LINGER_MAX_S)


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  ends at the deadline
        await asyncio.sleep(0.01)
