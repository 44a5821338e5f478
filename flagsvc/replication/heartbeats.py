"""The other replicas: who lives, what they have applied, and what their word is worth.

Every replica beats once a second on the channel of the shared cache, and reports itself there. A beat quotes the beats
that its sender had heard: one that quotes mine was made after I sent mine, whatever clocks say and however long it was
on its way. So a peer's view, as old as it says, is a proof for mine when I have applied all that it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import structlog

from flagsvc.ports import NEVER, FlagCache, Heartbeat
from flagsvc.view.near_cache import NearCache

HEARTBEAT_S = 1.0
PEER_TIMEOUT_S = 10.0
"""A replica that was not heard for this long is not quoted any more."""
MAX_SENT_KEPT = 32

log = structlog.get_logger(__name__)


def replica_name() -> str:
    """Make a name for this process that no other has, and that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a replica stands. Seconds; `view_age_s` None: it has no view yet."""

    replica: str
    version: str
    started_at: datetime
    revisions: Mapping[str, int]
    view_age_s: float | None
    staleness_bound_s: float
    ready: bool
    store_up: bool
    cache_up: bool
    subscription_up: bool
    change_feed: str
    change_feed_up: bool
    holds_cache_lease: bool
    flags: int

    def to_text(self) -> str:
        """Give it as JSON."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()}, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Report | None:
        """Read it; None for one of another version that cannot be understood."""
        try:
            told = json.loads(text)
            report = cls(**{**told, "started_at": datetime.fromisoformat(told["started_at"])})
        except (ValueError, TypeError, KeyError):
            return None
        return report if report._is_sound() else None

    def _is_sound(self) -> bool:
        texts = (self.replica, self.version, self.change_feed)
        numbers = (self.staleness_bound_s, self.view_age_s or 0.0, self.flags)
        switches = (
            self.ready,
            self.store_up,
            self.cache_up,
            self.subscription_up,
            self.change_feed_up,
            self.holds_cache_lease,
        )
        return (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int | float) for number in numbers)
            and all(isinstance(switch, bool) for switch in switches)
            and isinstance(self.revisions, dict)
            and all(isinstance(revision, int) for revision in self.revisions.values())
        )


@dataclass(frozen=True, slots=True)
class AckStatus:
    """Live replicas by whether they have applied a change; `known`: whether it is known which replicas live."""

    applied: tuple[str, ...]
    lagging: tuple[str, ...]
    known: bool = True


@dataclass(slots=True)
class _Peer:
    number: int
    revisions: Mapping[str, int]
    heard_at: float


class Peers:
    """What one replica knows of all; itself among them."""

    def __init__(self, name: str, near: NearCache, cache: FlagCache | None, report: Callable[[], Report]) -> None:
        self.name = name
        self._near, self._cache, self._report = near, cache, report
        self._number = 0
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._peers: dict[str, _Peer] = {}
        self._apply_change = asyncio.Event()
        self._soon: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        if self._cache is not None:
            self._task = asyncio.create_task(self._beat_forever(self._cache), name="beat")

    async def close(self) -> None:
        """Stop, and take back the report: nobody need wait for this replica any more."""
        tasks = [task for task in (self._task, self._soon) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._cache is not None:
            await self._cache.report(self.name, "", 0.0)

    def hear(self, beat: Heartbeat, now: float) -> float:
        """Take a beat: the sender lives, and what it knows may be a proof for this replica's view.

        Gives the moment as of which this view is the store's by that, but for changes that have no revision.
        """
        self._peers[beat.replica] = _Peer(beat.number, beat.revisions, now)
        self._apply_change.set()
        sent_at = self._sent.get(beat.heard.get(self.name, -1))
        if beat.replica == self.name or sent_at is None or not self._near.has_all(beat.revisions):
            return NEVER
        return sent_at - beat.age_s

    def reply_soon(self) -> None:
        """Say at once what is applied here: somebody waits for it."""
        if self._cache is not None and (self._soon is None or self._soon.done()):
            self._soon = asyncio.create_task(self._beat(self._cache), name="reply")

    async def reports(self) -> tuple[list[tuple[Report, float]], bool]:
        """Give the live replicas' reports with their age in seconds, this one's first, and whether they are all."""
        own = self._report()
        found = await self._cache.reports() if self._cache is not None else []
        others = [(Report.of_text(text), age) for text, age in found or ()]
        told = [(report, age) for report, age in others if report is not None and report.replica != self.name]
        return [(own, 0.0), *told], found is not None

    async def ack_status(self, flag_set: str, revision: int) -> AckStatus:
        """Say which live replicas have applied a change, as far as is known now."""
        found = await self._cache.reports() if self._cache is not None else []
        names = {report.replica for text, _ in found or () if (report := Report.of_text(text)) is not None}
        names |= {self.name}
        if found is None:
            horizon = time.monotonic() - PEER_TIMEOUT_S
            names |= {name for name, peer in self._peers.items() if peer.heard_at > horizon}
        applied = {name for name in names if self._has(name, flag_set, revision)}
        return AckStatus(tuple(sorted(applied)), tuple(sorted(names - applied)), found is not None)

    async def wait_for_acks(self, flag_set: str, revision: int, until: float) -> AckStatus:
        """Wait until every live replica has applied a change, or the moment has come; gives how it stands then."""
        while True:
            self._apply_change.clear()
            standing = await self.ack_status(flag_set, revision)
            left = until - time.monotonic()
            if left <= 0 or (standing.known and not standing.lagging):
                return standing
            try:
                async with asyncio.timeout(min(left, HEARTBEAT_S / 4)):
                    await self._apply_change.wait()
            except TimeoutError:
                continue

    def _has(self, name: str, flag_set: str, revision: int) -> bool:
        if name == self.name:
            return True  # who asks has stored it, and answers with it
        peer = self._peers.get(name)
        return peer is not None and peer.revisions.get(flag_set, 0) >= revision

    async def _beat_forever(self, cache: FlagCache) -> None:
        while True:
            try:
                await self._beat(cache)
                await cache.report(self.name, self._report().to_text(), 2 * self._near.staleness_bound_s)
            except Exception:
                log.exception("a beat failed; the next one comes")
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat(self, cache: FlagCache) -> None:
        now = time.monotonic()
        self._number += 1
        self._sent[self._number] = now
        while len(self._sent) > MAX_SENT_KEPT:
            self._sent.popitem(last=False)
        self._peers = {name: peer for name, peer in self._peers.items() if now - peer.heard_at < 6 * PEER_TIMEOUT_S}
        heard = {name: peer.number for name, peer in self._peers.items() if now - peer.heard_at < PEER_TIMEOUT_S}
        age_s = now - self._near.verified_at
        await cache.announce(Heartbeat(self.name, self._number, self._near.revisions(), age_s, heard))
