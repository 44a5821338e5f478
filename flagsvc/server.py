"""Builds the parts and runs them: startup, serve, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Iterator
from functools import partial

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.core.evaluation import prepare
from flagsvc.follower import Follower
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.health import Health, ManagementServer
from flagsvc.near import NearCache
from flagsvc.reader import Reader
from flagsvc.rpc import reflection
from flagsvc.rpc.contexts import Contexts
from flagsvc.rpc.flag_service import FlagService
from flagsvc.rpc.flagd import evaluation, sync
from flagsvc.rpc.flagd.evaluation import FlagdEvaluation
from flagsvc.rpc.flagd.events import Events
from flagsvc.rpc.flagd.sync import FlagdSync
from flagsvc.rpc.interceptors import Guard
from flagsvc.rpc.watch import Watches
from flagsvc.settings import Settings, pairs, redacted
from flagsvc.telemetry import Metrics, Sample
from flagsvc.writer import Writer

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
GC_THRESHOLDS = (50_000, 20, 20)
"""Compiling ten thousand rules makes millions of objects that stay: looking through them often would stall calls."""


class Server:
    """One replica. `start` waits for no store; `stop` is the reverse of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store = store_for(settings.store_url, settings)
        self._cache = cache_for(settings.cache_url, settings)
        version = settings.fractional_version
        prepared = partial(prepare, fractional_version=version)
        self._near = NearCache(settings.near_cache_entries, settings.staleness_bound_s, prepared)
        self._follower = Follower(self._near, self._store, self._cache)
        self._reader = Reader(self._near, self._store, self._cache, self._follower, fractional_version=version)
        self._writer = Writer(self._near, self._store, self._cache)
        self._watches = Watches(self._near, self._reader)
        self._events = Events(self._near, settings.connection_age_s)
        self._contexts = Contexts(pairs(settings.context_values), pairs(settings.context_from_headers))
        self._sync = FlagdSync(self._near, self._reader, self._contexts, prepared, settings.connection_age_s)
        self._metrics = Metrics(self._samples)
        self._health = Health(
            self._is_ready, lambda: self._follower.store_up, self._cache_is_up if self._cache else None
        )
        self._guard = Guard(self._metrics, settings.max_calls, settings.max_streams)
        self._grpc = self._build_grpc()
        self._management: ManagementServer | None = None
        self._health_task: asyncio.Task[None] | None = None
        self.port = 0
        self.sync_port = 0
        self.management_port = 0

    async def start(self) -> None:
        """Listen and begin to follow the store. Raises OSError when a port is taken."""
        await self._health.start()
        self.port = self._bind(self.settings.port)
        if self.settings.sync_port >= 0:
            self.sync_port = self._bind(self.settings.sync_port)
        if self.settings.management_port >= 0:
            self._management = ManagementServer(
                self.settings.host, self.settings.management_port, self._health, self._metrics.page
            )
            self.management_port = self._management.port
        if self._cache is not None:
            await self._cache.open()
        self._follower.start()
        self._health_task = asyncio.create_task(self._health.run(), name="health")
        await self._grpc.start()
        log.info(
            "serving",
            port=self.port,
            sync_port=self.sync_port,
            management_port=self.management_port,
            store=redacted(self.settings.store_url),
            cache=redacted(self.settings.cache_url),
        )

    async def stop(self) -> None:
        """Not ready, wait for balancers to notice, refuse new calls, let calls and streams end, close the stores."""
        log.info("stopping", drain_s=self.settings.drain_s, grace_s=self.settings.grace_s)
        await self._health.stop()
        await asyncio.sleep(self.settings.drain_s)
        self._watches.close()
        self._events.close()
        self._sync.close()
        await self._guard.stop(self.settings.grace_s)
        await self._grpc.stop(0.5)
        if self._health_task is not None:
            self._health_task.cancel()
        await self._follower.close()
        await self._writer.close()
        await self._reader.close()
        if self._cache is not None:
            await self._cache.close()
        await self._store.close()
        if self._management is not None:
            self._management.close()
        log.info("stopped")

    def _build_grpc(self) -> grpc.aio.Server:
        """Make the transport; the only place that knows which one it is."""
        age_ms = int(self.settings.connection_age_s * 1000)
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.max_ping_strikes", 0),  # flagd's Python provider pings as often as it can by default
            ("grpc.max_connection_age_ms", age_ms),
            ("grpc.max_connection_age_grace_ms", 60_000),
        ]
        server = grpc.aio.server(interceptors=(self._guard,), options=options)
        service = FlagService(self._reader, self._writer, self._watches, self._contexts, self._metrics.evaluated)
        pb_grpc.add_FlagServiceServicer_to_server(service, server)
        FlagdEvaluation(self._reader, self._events, self._contexts, self._metrics.evaluated).add_to(server)
        self._sync.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self.settings.reflection:
            reflection.enable(server, (pb.DESCRIPTOR, *evaluation.FILES, sync.FILE, health_pb2.DESCRIPTOR))
        return server

    def _bind(self, port: int) -> int:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        try:
            return self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise OSError(f"port {port} on {host} cannot be listened on: is it taken?") from None

    def _is_ready(self) -> bool:
        """Something to answer from: the whole store was read, or (without near cache) a tier can be asked now."""
        if self.settings.near_cache_entries > 0:
            return self._follower.loaded.is_set()
        return self._follower.loaded.is_set() and (self._follower.store_up or self._cache_is_up())

    def _cache_is_up(self) -> bool:
        return self._cache is not None and self._cache.available

    def _samples(self) -> Iterator[Sample]:
        """Give the parts' plain counts, when Prometheus asks."""
        tally, spread, follower = self._reader.tally, self._writer.spread, self._follower
        about = "Definition lookups by the tier that answered."
        for tier in ("near", "cache", "store", "stale"):
            yield Sample("flagsvc_lookups_total", about, getattr(tally, tier), {"tier": tier})
        asked = tally.near + tally.cache + tally.store + tally.stale
        hits = (tally.near + tally.cache) / asked if asked else 0.0
        yield Sample("flagsvc_hit_ratio", "Share of lookups that asked no store.", hits)
        yield Sample("flagsvc_store_reads_total", "Reads sent to the store.", getattr(self._store, "reads", 0))
        yield Sample("flagsvc_store_up", "1 while the store answers.", follower.store_up)
        yield Sample("flagsvc_full_loads_total", "Times that the whole store was read.", follower.loads)
        yield Sample("flagsvc_near_cache_entries", "Flags held in memory.", len(self._near))
        yield Sample("flagsvc_watch_streams", "Watch streams now.", self._watches.active)
        yield Sample("flagsvc_event_streams", "Streams of flagd's events now.", self._events.active)
        yield Sample("flagsvc_sync_streams", "Streams of flagd's sync now.", self._sync.active)
        yield Sample("flagsvc_writes_total", "Changes stored.", spread.stored)
        yield Sample("flagsvc_announcements_sent_total", "Changes announced.", spread.announced)
        yield Sample("flagsvc_announcements_failed_total", "Changes that could not be announced.", spread.not_announced)
        received = follower.announcements_received
        yield Sample("flagsvc_announcements_received_total", "Announcements heard, own ones too.", received)
        yield Sample("flagsvc_channel_heard", "1 while announcements reach this replica.", follower.channel_heard)
        if self._cache is not None:
            yield Sample("flagsvc_cache_up", "1 while the shared cache answers.", self._cache.available)
            for name, value in self._cache.state().items():
                yield Sample(f"flagsvc_cache_{name}", "The shared cache's own figure, as last told.", value)


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit status."""
    gc.set_threshold(*GC_THRESHOLDS)
    server = Server(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
    except OSError as error:
        log.error("cannot start", error=str(error))  # noqa: TRY400  the text says it all
        return 1
    try:
        await stop.wait()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop()
    return 0
