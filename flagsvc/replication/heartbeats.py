"""Heartbeats: which replicas live, what they have applied, and what a peer's view proves for this one.

Every replica publishes a heartbeat on the channel of the shared cache and keeps it there for `flagsvc status`. A
heartbeat quotes the heartbeats that its sender has received. One that quotes mine was made after I sent mine, whatever
the clocks say and however long it was in transit. So a peer's view proves mine as of that moment, less the peer's age,
when three conditions hold (docs/model.md has a counterexample for each):

- I have applied every revision that the peer has;
- the peer's change stream was unbroken since before my own view was verified, so no change of another program that I
  missed was missed by the peer as well;
- my view was read from the store once, not only from a snapshot.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from flagsvc.background import BackgroundTasks, repeat
from flagsvc.ports import NEVER, FlagCache, Heartbeat, ReplicaStatus
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache

MAX_PEERS = 1_000
"""Heartbeats of more replicas than these are not heard."""
TOKENS = ""
"""Stands for the tokens where a flag set is asked for: no flag set has an empty name."""


def replica_name() -> str:
    """Return a name for this process that no other has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class AckStatus:
    """Live replicas by whether they have applied a change. `known`: whether it is known which replicas live."""

    applied: tuple[str, ...]
    lagging: tuple[str, ...]
    known: bool = True


@dataclass(slots=True)
class _Peer:
    number: int
    revisions: Mapping[str, int]
    token_revision: int
    last_seen_at: float


class Heartbeats:
    """The heartbeats of all replicas, as one of them sends and receives them. Its own are among those received."""

    def __init__(
        self,
        name: str,
        near: NearCache,
        cache: FlagCache | None,
        *,
        progress: StreamProgress,
        timing: Timing,
        status: Callable[[], ReplicaStatus],
    ) -> None:
        self.name = name
        self._near, self._cache, self._progress = near, cache, progress
        self._timing, self._status = timing, status
        self._number = 0
        self._sent_at: OrderedDict[int, float] = OrderedDict()
        self._peers: dict[str, _Peer] = {}
        self._received = asyncio.Event()
        self._is_stopping = False
        self._tasks = BackgroundTasks()
        self._reply: asyncio.Task[None] | None = None
        self.token_revision: Callable[[], int] = lambda: 0
        """Returns up to which revision this replica enforces changes of tokens."""

    def start(self) -> None:
        """Send the first heartbeat, and one after each interval."""
        if self._cache is not None:
            self._tasks.start(
                repeat(self._send, partial(asyncio.sleep, self._timing.heartbeat_every_s), "heartbeat_failed"),
                "heartbeats",
            )

    def stop_waiting(self) -> None:
        """End what waits for other replicas: this one stops, and they may take long."""
        self._is_stopping = True
        self._received.set()

    async def close(self) -> None:
        """Stop sending, and remove the kept heartbeat: nobody need wait for this replica any more."""
        await self._tasks.close()
        if self._cache is not None:
            await self._cache.remove_heartbeat(self.name)

    def receive(self, heartbeat: Heartbeat, now: float) -> float:
        """Record that the sender lives. Return the moment as of which its view proves this replica's; else NEVER."""
        if heartbeat.replica not in self._peers and len(self._peers) >= MAX_PEERS:
            return NEVER
        self._peers[heartbeat.replica] = _Peer(heartbeat.number, heartbeat.revisions, heartbeat.token_revision, now)
        self._received.set()
        number, seconds_ago = heartbeat.last_seen.get(self.name, (-1, 0.0))
        sent_at = self._sent_at.get(number)
        verified = self._near.verified_at > NEVER and not self._near.restored
        if heartbeat.replica == self.name or sent_at is None or not verified:
            return NEVER
        has_all = self._near.changelogs.reach(heartbeat.revisions)
        missed_nothing = now - heartbeat.stream_age_s <= self._near.verified_at
        return min(sent_at + seconds_ago - heartbeat.age_s, now) if has_all and missed_nothing else NEVER

    def reply_soon(self) -> None:
        """Send a heartbeat at once: a writer waits for what is applied here."""
        if self._cache is not None and (self._reply is None or self._reply.done()):
            self._reply = self._tasks.begin(self._send(), "heartbeat-reply")

    async def statuses(self) -> tuple[list[tuple[Heartbeat, float]], bool]:
        """Return the live replicas' heartbeats with their age in seconds, its own first, and whether all are known."""
        found = await self._cache.heartbeats() if self._cache is not None else []
        own = self._heartbeat(time.monotonic(), {})  # after the question, whose failure is one of its problems
        others = [(heartbeat, age_s) for heartbeat, age_s in found or () if heartbeat.replica != self.name]
        return [(own, 0.0), *others], found is not None

    async def ack_status(self, flag_set: str, revision: int) -> AckStatus:
        """Return which live replicas have applied a change of a flag set, or of TOKENS, as far as is known now."""
        found = await self._cache.heartbeats() if self._cache is not None else []
        names = {heartbeat.replica for heartbeat, _ in found or ()} | {self.name}
        if found is None:
            names |= self._seen_within(self._timing.peer_timeout_s).keys()
        applied = {name for name in names if self._has_applied(name, flag_set, revision)}
        return AckStatus(tuple(sorted(applied)), tuple(sorted(names - applied)), found is not None)

    async def wait_for_acks(self, flag_set: str, revision: int, until: float) -> AckStatus:
        """Wait until every live replica has applied a change, or the moment has come, or this replica stops.

        Return the status then.
        """
        while True:
            self._received.clear()
            status = await self.ack_status(flag_set, revision)
            left = until - time.monotonic()
            if left <= 0 or self._is_stopping or (status.known and not status.lagging):
                return status
            try:
                async with asyncio.timeout(min(left, self._timing.heartbeat_every_s / 4)):
                    await self._received.wait()
            except TimeoutError:
                continue

    def count(self) -> int:
        """Return how many replicas are known to live, this one too."""
        return len(self._seen_within(self._timing.heartbeat_expiry_s).keys() | {self.name})

    def _has_applied(self, name: str, flag_set: str, revision: int) -> bool:
        if name == self.name:
            return True  # the replica that asks has stored the change, and answers with it
        peer = self._peers.get(name)
        if peer is None:
            return False
        return (peer.token_revision if flag_set == TOKENS else peer.revisions.get(flag_set, 0)) >= revision

    def _seen_within(self, seconds: float) -> dict[str, _Peer]:
        horizon = time.monotonic() - seconds
        return {name: peer for name, peer in self._peers.items() if peer.last_seen_at > horizon}

    async def _send(self) -> None:
        if self._cache is None:
            return
        now = time.monotonic()
        self._number += 1
        self._sent_at[self._number] = now
        while now - next(iter(self._sent_at.values())) > 2 * self._timing.staleness_bound_s:
            self._sent_at.popitem(last=False)  # too old to prove anything
        self._peers = self._seen_within(6 * self._timing.peer_timeout_s)
        quoted = self._seen_within(self._timing.peer_timeout_s)
        last_seen = {name: (peer.number, now - peer.last_seen_at) for name, peer in quoted.items()}
        await self._cache.send_heartbeat(self._heartbeat(now, last_seen), self._timing.heartbeat_expiry_s)

    def _heartbeat(self, now: float, last_seen: Mapping[str, tuple[int, float]]) -> Heartbeat:
        # Entries beyond a gap are not among `revisions`, and a load takes changes before they have a revision: neither
        # could be demanded of a peer, so with a gap, and past the stream's checkpoint, this view proves nothing.
        has_gap = self._near.changelogs.gap_since() != math.inf
        proven_as_of = NEVER if has_gap else min(self._near.verified_at, self._progress.checkpoint)
        return Heartbeat(
            replica=self.name,
            number=self._number,
            revisions=self._near.changelogs.watermarks(),
            age_s=now - proven_as_of,
            stream_age_s=max(now - self._progress.unbroken_since, 0.0),
            last_seen=last_seen,
            status=self._status(),
            token_revision=self.token_revision(),
        )
