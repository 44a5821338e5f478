"""One replica's parts, built from the settings, started and stopped together. Knows no transport."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import structlog

from flagsvc import __version__
from flagsvc.access.access import Access
from flagsvc.access.no_tokens import NoTokens
from flagsvc.access.planned_rights import PlannedRights
from flagsvc.adapters.build import cache_for, flag_sets_for, snapshot_for, store_for
from flagsvc.adapters.identity import identity_of
from flagsvc.auth_mode import AuthMode, auth_mode
from flagsvc.core.errors import short_repr
from flagsvc.core.evaluation import Prepared, prepare
from flagsvc.core.model import Flag
from flagsvc.core.sizes import MAX_SERVED_BYTES
from flagsvc.ports import Problem, ReplicaStatus
from flagsvc.replication import snapshot_writer
from flagsvc.replication.cache_audit import CacheAuditor
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.follower import Follower
from flagsvc.replication.heartbeats import Heartbeats, replica_name
from flagsvc.replication.resync import Resync
from flagsvc.replication.revision_sweep import RevisionSweep
from flagsvc.replication.snapshot_writer import SnapshotWriter
from flagsvc.replication.stream_progress import FeedKind, StreamProgress
from flagsvc.replication.timing import SUBSCRIPTION_TIMEOUT_S, Timing
from flagsvc.schedules.executor import ScheduleExecutor
from flagsvc.schedules.planner import SchedulePlanner
from flagsvc.serving.bucketings import Bucketings
from flagsvc.serving.child_changes import ChildChanges
from flagsvc.serving.odd_flags import OddFlags
from flagsvc.serving.past import Past
from flagsvc.serving.quotas import Quotas
from flagsvc.serving.reader import Reader
from flagsvc.serving.rollout_steps import RolloutSteps
from flagsvc.serving.writer import Writer
from flagsvc.settings import Settings
from flagsvc.telemetry import Sample
from flagsvc.urls import SettingsError
from flagsvc.view.near_cache import NearCache

_LARGE_NAMED = 5
"""Flags over the size limit that a status names."""
STORE_WAIT_S = 0.5
"""How long a start with a snapshot waits for the store before it is ready without."""

log = structlog.get_logger(__name__)


class Replica:
    """Store, caches, and everything that keeps them right. `start` waits for no store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = store = store_for(settings.store_url, settings)
        self.flag_sets = flag_sets_for(settings.store_url)
        self.cache = cache = cache_for(settings.cache_url, settings)
        self._odd_flags = None if settings.store_url.startswith("file:") else OddFlags()
        self.near = near = NearCache(
            settings.near_cache_entries,
            settings.staleness_bound_s,
            self.prepare,
            max_bytes=settings.near_cache_bytes,
        )
        timing, progress = Timing.of_bound(settings.staleness_bound_s), StreamProgress.of_store(store)
        self.cache_lease = CacheLease(near, cache, timing)
        self.heartbeats = Heartbeats(replica_name(), near, cache, progress=progress, timing=timing, status=self.status)
        self.follower = Follower(
            near, store, cache, heartbeats=self.heartbeats, lease=self.cache_lease, progress=progress, timing=timing
        )
        interval_s = settings.verify_interval_s
        self.cache_auditor = CacheAuditor(near, store, cache, interval_s, lambda: self.cache_lease.is_holder)
        self.reader = Reader(near, store, cache, self.follower)
        self.writer = Writer(
            near, store, cache, self.heartbeats, Quotas(settings.max_flags_per_set, settings.max_bytes_per_set)
        )
        self.past = Past(store)
        self.revision_sweep = RevisionSweep(
            store,
            settings.revision_days,
            lambda: cache is None or self.cache_lease.is_holder,
            self.follower.proof.loaded,
        )
        self.bucketings = Bucketings(store, self.reader, self.writer)
        self.rollout_steps, self.child_changes = RolloutSteps(near), ChildChanges(near)
        self.access: Access | None = None
        if auth_mode(settings) is AuthMode.REQUIRED:
            if store.tokens is None and not settings.tokens_file and not settings.jwt_issuers_file:
                raise SettingsError(
                    "FLAGSVC_AUTH is required, and files of flags keep no tokens: name a file of tokens in"
                    " FLAGSVC_TOKENS_FILE, or issuers in FLAGSVC_JWT_ISSUERS_FILE, or use another store"
                )
            self.access = Access(store.tokens or NoTokens(), store, cache, self.heartbeats, settings.staleness_bound_s)
            self.follower.channels.tokens_changed = self.access.follower.wake
        rights = PlannedRights(self.access)
        self.executor = ScheduleExecutor(store.schedules, self.writer, rights) if store.schedules is not None else None
        wake = self.executor.wake if self.executor is not None else lambda: None
        self.planner = SchedulePlanner(store.schedules, self.writer, rights, wake)
        self.resync = Resync(near, store, cache, self.follower, self.heartbeats)
        self._snapshot = snapshot_for(settings)

        def store_id() -> str:
            return self.follower.proof.lineage.store_id

        callers = self.access.view if self.access is not None else None
        self.snapshots = (
            SnapshotWriter(near, self._snapshot, store_id=store_id, access=callers)
            if self._snapshot is not None
            else None
        )
        self.more_problems: list[Callable[[], Iterable[Problem]]] = []
        """What other parts of the process report in its status."""
        if self.executor is not None:
            self.more_problems.append(self.executor.problems)
        self._restoring: asyncio.Task[None] | None = None
        self._started_at, self._started = datetime.now(UTC), time.monotonic()

    def prepare(self, flag: Flag) -> Prepared:
        """Compile a definition, and note it if it is odd."""
        prepared = prepare(flag)
        if self._odd_flags is not None:
            self._odd_flags.note(flag, prepared)
        return prepared

    async def start(self) -> None:
        """Begin to follow the store."""
        self._started = time.monotonic()
        if self.cache is not None:
            await self.cache.open()
        self.follower.start()
        if self.access is not None:
            self.access.start()
        if self.executor is not None:
            self.executor.start()
        self.heartbeats.start()
        self.cache_auditor.start()
        self.revision_sweep.start()
        self.cache_lease.start()
        self.rollout_steps.start()
        self.child_changes.start()
        self._restoring = asyncio.create_task(self._restore(), name="restore")

    async def stop(self) -> None:
        """Let writes end, stop the background work, and release the stores."""
        self.heartbeats.stop_waiting()  # writes may wait a minute for other replicas
        if self.access is not None:
            await self.access.close()
        await self.rollout_steps.close()
        await self.child_changes.close()
        if self.executor is not None:
            await self.executor.close()
        await self.writer.close()  # writes need everything below
        await self.reader.close()
        await self.cache_auditor.close()
        await self.revision_sweep.close()
        await self.cache_lease.close()
        await self.heartbeats.close()  # this removes the heartbeat, so it comes before the cache is closed
        if self._restoring is not None:
            await asyncio.wait({self._restoring})
        if self.snapshots is not None:
            await self.snapshots.close()  # this saves once more while the follower keeps the view fresh
        await self.follower.close()
        if self.cache is not None:
            await self.cache.close()
        await self.store.close()

    def is_ready(self) -> bool:
        """Whether there is something to answer from.

        The whole store was read, or (without near cache) a tier can be asked now. A snapshot is enough once the store
        has had its chance.
        """
        if self.access is not None and not self.access.is_ready:
            return False
        if self.near.restored:
            return self.follower.tried.is_set() or time.monotonic() - self._started > STORE_WAIT_S
        if self.settings.near_cache_entries > 0:
            return self.follower.proof.loaded.is_set()
        return self.follower.proof.loaded.is_set() and (self.follower.store_up or self.cache_is_up())

    def cache_is_up(self) -> bool:
        """Whether the shared cache answers; False without one."""
        return self.cache is not None and self.cache.available

    def details(self) -> dict[str, Callable[[], bool]]:
        """Return the checks for people and alerts, by the name of their health service."""
        details: dict[str, Callable[[], bool]] = {"store": lambda: self.follower.store_up}
        if self.cache is not None:
            details["cache"] = self.cache_is_up
        if self.store.feed is not None:
            details["changes"] = lambda: self.follower.feed_up
        return details

    def status(self) -> ReplicaStatus:
        """Return the state of this replica, as its heartbeats carry it."""
        age_s = self._view_age_s()
        return ReplicaStatus(
            version=__version__,
            started_at=self._started_at,
            view_age_s=age_s if age_s != math.inf else None,
            staleness_bound_s=self.near.staleness_bound_s,
            ready=self.is_ready(),
            store_up=self.follower.store_up,
            cache_up=self.cache_is_up(),
            subscription_up=self.follower.channels.subscription_up,
            change_feed=self.follower.feed_kind,
            change_feed_up=self.follower.feed_up,
            lease_left_s=self.cache_lease.left_s,
            flags=len(self.near),
            problems=tuple(self._problems()),
        )

    def _problems(self) -> Iterator[Problem]:
        """Yield what is configured here and does not work now. `flagsvc status` exits 1 while there is anything."""
        follower = self.follower
        yield from follower.problems()
        is_started = time.monotonic() - self._started > SUBSCRIPTION_TIMEOUT_S
        if is_started and follower.feed_kind is FeedKind.STREAM and follower.store_up and not follower.feed_up:
            detail = "the change stream of the store delivers nothing, so changes of other programs arrive late"
            yield Problem("change_stream_down", detail, "see the log events change_stream_broke and store_unavailable")
        if self.cache is not None:
            yield from (problems := self.cache.problems())
            if is_started and not problems and not follower.channels.subscription_up:
                detail = "the channel of the shared cache delivers nothing, so changes arrive late"
                yield Problem("cache_subscription_down", detail, "check the connection to Redis, and Redis' log")
        if self._snapshot is not None:
            yield from self._snapshot.problems()
        if self.snapshots is not None and self.snapshots.problem is not None:
            yield self.snapshots.problem
        if large := sorted(self.near.too_large)[:_LARGE_NAMED]:
            names = ", ".join(f"{short_repr(key)} of flag set {short_repr(flag_set)}" for flag_set, key in large)
            detail = f"flags over {MAX_SERVED_BYTES} bytes answer GENERAL; here {len(self.near.too_large)}: {names}"
            cure = "make their values smaller, or disable or delete them: both work for flags of any size"
            yield Problem("flag_too_large", detail, cure)
        yield from self.reader.expensive_rules.problems()
        yield from self.store.problems()
        if self.access is not None:
            yield from self.access.problems()
        if self._odd_flags is not None:
            yield from self._odd_flags.problems(self.near)
        for problems_of in self.more_problems:
            yield from problems_of()

    async def _restore(self) -> None:
        """Hold the last good contents until the store answers, and save them from then on."""
        if self._snapshot is None or self.snapshots is None:
            return
        if self.near.limit == 0:
            log.warning("snapshots_off", detail="FLAGSVC_NEAR_CACHE_ENTRIES is 0, so there is nothing to save.")
        saved = await snapshot_writer.read(self._snapshot)
        if saved is not None and self.follower.proof.lineage.may_restore(saved.store_id):
            if self.cache is not None and saved.store_id:
                self.cache.assume(identity_of(saved.store_id, self.settings.store_url))
            age_s = (datetime.now(UTC) - saved.saved_at).total_seconds()
            await self.follower.loader.restore(saved.contents, age_s)
            if self.access is not None and saved.access is not None:
                await self.access.restore(saved.access)
            log.info("snapshot_restored", flags=len(saved.contents.flags), age_s=round(age_s, 1))
        self.snapshots.start()

    def samples(self) -> Iterator[Sample]:
        """Return the parts' plain counts when Prometheus asks."""
        lookups, writes, follower, audits = self.reader.all_stats, self.writer.stats, self.follower, self.cache_auditor
        for tier in ("near", "cache", "store", "stale"):
            about = "Definition lookups by the tier that answered."
            yield Sample("flagsvc_lookups_total", about, getattr(lookups, tier), {"tier": tier})
        hits, asked = lookups.near + lookups.cache, lookups.near + lookups.cache + lookups.store + lookups.stale
        ratio = hits / asked if asked else 0.0
        yield Sample("flagsvc_hit_ratio", "Share of lookups answered without the store.", ratio)
        yield Sample("flagsvc_store_reads_total", "Queries sent to the store.", self.store.reads)
        yield Sample("flagsvc_store_up", "1 while the store answers.", follower.store_up)
        yield Sample("flagsvc_full_loads_total", "Full loads of the store.", follower.loader.loads)
        yield Sample("flagsvc_near_cache_entries", "Flags held in memory.", len(self.near))
        yield Sample("flagsvc_near_cache_bytes", "Memory of the flags held, as estimated.", self.near.bytes)
        about = "Seconds since the near cache was last known to equal the store."
        yield Sample("flagsvc_view_age_seconds", about, self._view_age_s())
        yield Sample("flagsvc_change_feed_up", "1 while changes of other programs arrive.", follower.feed_up)
        restarts = self.store.feed.stream_restarts if self.store.feed is not None else 0
        yield Sample("flagsvc_change_stream_restarts_total", "Failures of the change stream.", restarts)
        about = "Revisions assigned here to changes of other programs."
        yield Sample("flagsvc_foreign_changes_total", about, follower.proof.revision_assigner.assigned)
        sweep = self.revision_sweep
        yield Sample("flagsvc_revisions_removed_total", "Revisions that retention removed.", sweep.removed)
        about = "Announced changes that the store contradicted, and that were replaced."
        yield Sample("flagsvc_contradicted_announcements_total", about, follower.proof.hints.contradicted)
        yield Sample("flagsvc_cache_lease_held", "1 on the holder of the cache lease.", self.cache_lease.is_holder)
        yield Sample("flagsvc_verify_checks_total", "Comparisons of the shared cache with the store.", audits.checks)
        yield Sample("flagsvc_verify_drifted_total", "Cache entries that differed from the store.", audits.drifted)
        yield Sample("flagsvc_verify_repaired_total", "Cache entries that were repaired.", audits.repaired)
        if self.snapshots is not None:
            yield Sample("flagsvc_snapshot_writes_total", "Snapshots saved.", self.snapshots.writes)
            yield Sample("flagsvc_snapshot_failures_total", "Snapshots that were not saved.", self.snapshots.failures)
        if self.executor is not None:
            yield from (Sample(*each) for each in self.executor.samples())
        yield Sample("flagsvc_writes_total", "Changes stored.", writes.stored)
        about = "Steps of rollouts that were announced to clients that hold values."
        yield Sample("flagsvc_rollout_steps_total", about, self.rollout_steps.announced)
        yield Sample("flagsvc_announcements_sent_total", "Changes announced.", writes.announced)
        yield Sample("flagsvc_announcements_failed_total", "Changes not announced.", writes.not_announced)
        about = "Announcements received, own ones included."
        yield Sample("flagsvc_announcements_received_total", about, follower.channels.received)
        about = "1 while announcements reach this replica."
        yield Sample("flagsvc_cache_subscription_up", about, follower.channels.subscription_up)
        for name, about, value in self.access.counts() if self.access is not None else ():
            yield Sample(name, about, value)
        if self.cache is not None:
            about = "Messages of other stores on this deployment's channel, which were ignored."
            yield Sample("flagsvc_foreign_store_messages_total", about, self.cache.foreign_messages)
            yield Sample("flagsvc_cache_up", "1 while the shared cache answers.", self.cache.available)
            for name, value in self.cache.state().items():
                yield Sample(f"flagsvc_cache_{name}", "The shared cache's own figure, as last read.", value)

    def _view_age_s(self) -> float:
        return time.monotonic() - self.near.verified_at
