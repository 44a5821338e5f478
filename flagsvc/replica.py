"""One replica's flag side: its parts, built from the settings, started and stopped together. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata

import structlog

from flagsvc.adapters.build import cache_for, snapshot_for, store_for
from flagsvc.core.evaluation import prepare
from flagsvc.replication import snapshot_writer as snapshots
from flagsvc.replication.cache_audit import CacheAuditor
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.follower import Follower
from flagsvc.replication.heartbeats import Peers, Report, replica_name
from flagsvc.replication.snapshot_writer import Snapshots
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.view.near_cache import NearCache

STORE_CHANCE_S = 0.5
"""How long a start with a snapshot waits for the store before it is ready without."""

log = structlog.get_logger(__name__)


class Replica:
    """Store, caches, and everything that keeps them right. `start` waits for no store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = store_for(settings.store_url, settings)
        self.cache = cache_for(settings.cache_url, settings)
        version = settings.fractional_version
        self.prepare = partial(prepare, fractional_version=version)
        self.near = NearCache(settings.near_cache_entries, settings.staleness_bound_s, self.prepare)
        self.cache_lease = CacheLease(self.near, self.cache) if self.cache is not None else None
        self.peers = Peers(replica_name(), self.near, self.cache, self.report)
        self.follower = Follower(self.near, self.store, self.cache, self.peers, self._is_holder)
        self.cache_auditor = CacheAuditor(
            self.near, self.store, self.cache, settings.verify_interval_s, self._is_holder
        )
        self.reader = Reader(self.near, self.store, self.cache, self.follower, fractional_version=version)
        self.writer = Writer(self.near, self.store, self.cache, self.peers)
        self._snapshot = snapshot_for(settings)
        self.snapshots = Snapshots(self.near, self._snapshot) if self._snapshot is not None else None
        self._restoring: asyncio.Task[None] | None = None
        self._started_at, self._begun = datetime.now(UTC), time.monotonic()

    async def start(self) -> None:
        """Begin to follow the store."""
        self._begun = time.monotonic()
        if self.cache is not None:
            await self.cache.open()
        self.follower.start()
        self.peers.start()
        self.cache_auditor.start()
        if self.cache_lease is not None:
            self.cache_lease.start()
        self._restoring = asyncio.create_task(self._restore(), name="restore")

    async def stop(self) -> None:
        """Let writes end, stop what works in the background, and release the stores."""
        await self.writer.close()
        await self.reader.close()
        await self.cache_auditor.close()
        if self.cache_lease is not None:
            await self.cache_lease.close()
        await self.peers.close()
        if self._restoring is not None:
            await asyncio.wait({self._restoring})
        if self.snapshots is not None:
            await self.snapshots.close()
        await self.follower.close()
        if self.cache is not None:
            await self.cache.close()
        await self.store.close()

    def is_ready(self) -> bool:
        """Something to answer from: the whole store was read, or (without near cache) a tier can be asked now.

        A snapshot is that too, once the store has had its chance.
        """
        if self.near.restored:
            return self.follower.tried.is_set() or time.monotonic() - self._begun > STORE_CHANCE_S
        if self.settings.near_cache_entries > 0:
            return self.follower.loaded.is_set()
        return self.follower.loaded.is_set() and (self.follower.store_up or self.cache_is_up())

    def cache_is_up(self) -> bool:
        """Whether the shared cache answers; False without one."""
        return self.cache is not None and self.cache.available

    def details(self) -> dict[str, Callable[[], bool]]:
        """Give the checks that are told for people and alerts, by the name of their health service."""
        details: dict[str, Callable[[], bool]] = {"store": lambda: self.follower.store_up}
        if self.cache is not None:
            details["cache"] = self.cache_is_up
        if self.store.foreign:
            details["changes"] = lambda: self.follower.feed_up
        return details

    def report(self) -> Report:
        """Tell how this replica stands."""
        age_s = time.monotonic() - self.near.verified_at
        return Report(
            replica=self.peers.name,
            version=metadata.version("flagsvc"),
            started_at=self._started_at,
            revisions=self.near.revisions(),
            view_age_s=age_s if age_s != math.inf else None,
            staleness_bound_s=self.near.staleness_bound_s,
            ready=self.is_ready(),
            store_up=self.follower.store_up,
            cache_up=self.cache_is_up(),
            subscription_up=self.follower.subscription_up,
            change_feed=self.follower.feed,
            change_feed_up=self.follower.feed_up,
            holds_cache_lease=self._is_holder(),
            flags=len(self.near),
        )

    async def _restore(self) -> None:
        """Hold the last good contents until the store answers, and keep them up to date from then on."""
        if self._snapshot is None or self.snapshots is None:
            return
        if self.near.limit == 0:
            log.warning("no snapshot is saved: FLAGSVC_NEAR_CACHE_ENTRIES is 0")
        saved = await snapshots.read(self._snapshot)
        if saved is not None:
            age_s = (datetime.now(UTC) - saved.saved_at).total_seconds()
            self.near.restore(saved.contents, age_s, time.monotonic())
            log.info("snapshot restored", flags=len(saved.contents.flags), age_s=round(age_s, 1))
        self.snapshots.start()

    def _is_holder(self) -> bool:
        return self.cache_lease is not None and self.cache_lease.is_holder

    def samples(self) -> Iterator[Sample]:
        """Give the parts' plain counts, when Prometheus asks."""
        tally, spread, follower = self.reader.stats, self.writer.spread, self.follower
        about = "Definition lookups by the tier that answered."
        for tier in ("near", "cache", "store", "stale"):
            yield Sample("flagsvc_lookups_total", about, getattr(tally, tier), {"tier": tier})
        asked = tally.near + tally.cache + tally.store + tally.stale
        hits = (tally.near + tally.cache) / asked if asked else 0.0
        yield Sample("flagsvc_hit_ratio", "Share of lookups that asked no store.", hits)
        yield Sample("flagsvc_store_reads_total", "Reads sent to the store.", getattr(self.store, "reads", 0))
        yield Sample("flagsvc_store_up", "1 while the store answers.", follower.store_up)
        yield Sample("flagsvc_full_loads_total", "Times that the whole store was read.", follower.loads)
        yield Sample("flagsvc_near_cache_entries", "Flags held in memory.", len(self.near))
        yield Sample(
            "flagsvc_view_age_seconds", "Seconds since the view was known to be the store's.", self._view_age()
        )
        yield Sample("flagsvc_change_feed_up", "1 while changes of other programs are learned.", follower.feed_up)
        restarts = getattr(self.store, "change_stream_restarts", 0)
        yield Sample("flagsvc_change_stream_restarts_total", "Times that the change stream broke.", restarts)
        numbered = follower.revision_assigner.assigned
        yield Sample("flagsvc_foreign_changes_total", "Changes of others that got a revision here.", numbered)
        yield Sample(
            "flagsvc_cache_lease_held", "1 on the replica that vouches for the shared cache.", self._is_holder()
        )
        yield Sample("flagsvc_verify_checks_total", "Comparisons of cache and store.", self.cache_auditor.checks)
        yield Sample(
            "flagsvc_verify_drifted_total", "Entries that were not what the store has.", self.cache_auditor.drifted
        )
        yield Sample(
            "flagsvc_verify_repaired_total", "Entries of those that were put right.", self.cache_auditor.repaired
        )
        if self.snapshots is not None:
            yield Sample("flagsvc_snapshot_writes_total", "Snapshots saved.", self.snapshots.writes)
            yield Sample(
                "flagsvc_snapshot_failures_total", "Snapshots that could not be saved.", self.snapshots.failures
            )
        yield Sample("flagsvc_writes_total", "Changes stored.", spread.stored)
        yield Sample("flagsvc_announcements_sent_total", "Changes announced.", spread.announced)
        yield Sample("flagsvc_announcements_failed_total", "Changes that could not be announced.", spread.not_announced)
        received = follower.announcements_received
        yield Sample("flagsvc_announcements_received_total", "Announcements heard, own ones too.", received)
        yield Sample(
            "flagsvc_cache_subscription_up", "1 while announcements reach this replica.", follower.subscription_up
        )
        if self.cache is not None:
            yield Sample("flagsvc_cache_up", "1 while the shared cache answers.", self.cache.available)
            for name, value in self.cache.state().items():
                yield Sample(f"flagsvc_cache_{name}", "The shared cache's own figure, as last told.", value)

    def _view_age(self) -> float:
        return time.monotonic() - self.near.verified_at
