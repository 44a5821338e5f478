"""A replica behind its ports: startup, serving and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Iterator
from itertools import chain

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc import collector, descriptors
from flagsvc.api.common import reflection
from flagsvc.api.common.admission import Admission, Limits
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.first_message import FirstMessages
from flagsvc.api.common.interceptors import CallInterceptor
from flagsvc.api.common.lateness import Lateness
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.common.request_limits import MAX_REQUEST_BYTES
from flagsvc.api.common.sending import Sender
from flagsvc.api.flag_service.service import FlagService
from flagsvc.api.flag_service.watch import Watches, evaluation_settings
from flagsvc.api.flagd import evaluation, sync
from flagsvc.api.flagd.evaluation import FlagdEvaluation
from flagsvc.api.flagd.event_streams import EventStreams
from flagsvc.api.flagd.sync import FlagdSync
from flagsvc.api.ofrep.app import Ofrep
from flagsvc.api.ofrep.http import HttpServer, listening_socket
from flagsvc.background import BackgroundTasks
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.health import Health
from flagsvc.lasting_server import LastingServer
from flagsvc.loop_lag import LoopLag
from flagsvc.management import ManagementServer
from flagsvc.replica import Replica
from flagsvc.settings import Settings, origins, pairs
from flagsvc.signals import STOP, exit_at_once_on
from flagsvc.telemetry import Metrics, Sample
from flagsvc.turns import SWITCH_S
from flagsvc.urls import host_and_port, redacted

log = structlog.get_logger(__name__)


class Server:
    """One replica with its ports. A port is 0 in the settings to let the system choose one, and -1 to leave it out."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.replica = replica = Replica(settings)
        self._contexts = Contexts(pairs(settings.context_values), pairs(settings.context_from_headers))
        self._watches = Watches(replica.near, replica.reader, evaluation_settings(self._contexts.values))
        age_s = settings.connection_age_s
        self._event_streams = EventStreams(replica.near, age_s)
        self._sync = FlagdSync(replica.near, replica.reader, self._contexts, age_s)
        self._metrics = Metrics(lambda: chain(replica.samples(), self._samples()))
        self._health = Health(replica.is_ready, replica.details())
        self._admission = Admission(_limits(settings))
        self._first_messages = FirstMessages(settings.max_pending_calls, settings.first_message_s)
        self._lateness = Lateness(self._late)
        ports = 1 + sum(port >= 0 for port in (settings.sync_port, settings.ofrep_port))
        self._max_connections = descriptors.connections_per_port(
            settings.max_connections, descriptors.limit(), settings.store_connections, ports
        )
        self._outflow = Outflow(settings.outstanding_bytes)
        self._grpc = LastingServer(self._build_grpc)
        contexts, admission, metrics, allowed = self._contexts, self._admission, self._metrics, settings.cors_origins
        self._ofrep = Ofrep(
            replica.reader,
            replica.near,
            contexts,
            admission,
            metrics,
            outflow=self._outflow,
            age_s=age_s,
            origins=origins(allowed),
        )
        self._http: HttpServer | None = None
        self._management: ManagementServer | None = None
        self._tasks = BackgroundTasks()
        self._loop_lag = LoopLag(self._loop_was_late, settings.log_loop_lag_s)
        self.port = self.sync_port = self.management_port = self.ofrep_port = 0

    async def start(self) -> None:
        """Bind every port, start the replica, then accept calls. Raises OSError if a port cannot be bound.

        It does not wait for the store: until flags are loaded, health reports that the server is not ready.
        """
        # Health has a state before the first probe can arrive.
        self._health.start()
        # Every port is bound before the replica starts, so a port in use has no other effects.
        self._bind_ports()
        # The replica follows its store before the first call can ask it for a flag.
        await self.replica.start()
        self._tasks.start(self._health.run(), "health")
        self._tasks.start(self._loop_lag.run(), "loop-lag")
        await self._grpc.start()
        self._tasks.start(self._grpc.run(), "grpc")
        if self._http is not None:
            await self._http.start()
        log.info(
            "serving",
            port=self.port,
            sync_port=self.sync_port,
            management_port=self.management_port,
            ofrep_port=self.ofrep_port,
            store=redacted(self.settings.store_url),
            cache=redacted(self.settings.cache_url),
            max_open_files=descriptors.limit(),
            connections_per_port=self._max_connections,
        )

    async def stop(self) -> None:
        """Shut down in an order that cuts off no call, unless one lasts longer than `grace_s`."""
        log.info("stopping", drain_s=self.settings.drain_s, grace_s=self.settings.grace_s)
        # Not ready first: load balancers need time to notice before calls are refused.
        self._health.stop()
        await asyncio.sleep(self.settings.drain_s)
        # Streams do not end by themselves, and admission would wait for them for the whole grace period.
        for streams in (self._watches, self._event_streams, self._sync, self._ofrep.streams):
            streams.close()
        # New calls get an error that clients retry elsewhere; those in progress finish.
        await self._admission.stop(self.settings.grace_s, lingers=self.settings.drain_s > 0)
        # The transports after the calls, which they would cut off.
        await asyncio.gather(self._grpc.stop(0.5), *([self._http.stop()] if self._http is not None else []))
        await self._tasks.close()
        # The replica after the transports, whose calls use its store and cache.
        await self.replica.stop()
        # Probes and metrics are served to the end.
        if self._management is not None:
            await self._management.stop()
        log.info("stopped")

    def _bind_ports(self) -> None:
        settings, host = self.settings, self.settings.host
        self.port = self._bind_grpc(settings.port)
        if settings.sync_port >= 0:
            self.sync_port = self._bind_grpc(settings.sync_port)
        if settings.ofrep_port >= 0:
            with _bind_errors(host, settings.ofrep_port):
                self._http = HttpServer(
                    self._ofrep.app,
                    host,
                    settings.ofrep_port,
                    max_connections=self._max_connections,
                    max_per_peer=settings.max_connections_per_peer,
                )
            self.ofrep_port = self._http.port
        if settings.management_port >= 0:
            host = settings.management_host or host
            with _bind_errors(host, settings.management_port):
                self._management = ManagementServer(host, settings.management_port, self._health, self._metrics)
            self.management_port = self._management.port

    def _bind_grpc(self, port: int) -> int:
        host = self.settings.host
        with _bind_errors(host, port):
            try:
                return self._grpc.add_insecure_port(host_and_port(host, port))
            except RuntimeError:
                # gRPC does not say why it failed. A plain socket fails for the same reason, and does.
                listening_socket(host, port).close()
                raise OSError("gRPC cannot bind it") from None

    def _build_grpc(self) -> grpc.aio.Server:
        """Build the gRPC server with its services. Nothing else knows which transport it is."""
        age_ms = int(self.settings.connection_age_s * 1000)
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.max_ping_strikes", 0),  # by default, flagd's Python provider pings as often as it can
            # Else a stream counts until Python has freed it: calls of a client that keeps to the limit are refused.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_concurrent_streams", self.settings.max_calls_per_connection),
            ("grpc.max_allowed_incoming_connections", self._max_connections),
            # Calls wait here while the event loop is busy, each method's in a queue of its own. Beyond the limits
            # gRPC cancels the newest. That costs a twentieth of an answer; an error from Python costs as much as one.
            ("grpc.server.max_pending_requests", self.settings.max_pending_calls),
            ("grpc.server.max_pending_requests_hard_limit", math.ceil(1.25 * self.settings.max_pending_calls)),
            ("grpc.max_connection_age_ms", age_ms),
            ("grpc.max_connection_age_grace_ms", 60_000),
        ]
        sender = Sender(self._outflow)
        interceptor = CallInterceptor(self._metrics, self._admission, self._first_messages, sender)
        server = grpc.aio.server(interceptors=(interceptor,), options=options)
        evaluated = self._metrics.evaluated
        service = FlagService(self.replica, self._watches, self._contexts, evaluated)
        pb_grpc.add_FlagServiceServicer_to_server(service, server)
        FlagdEvaluation(self.replica.reader, self._event_streams, self._contexts, evaluated).add_to(server)
        self._sync.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self.settings.reflection:
            reflection.enable(server, (pb.DESCRIPTOR, *evaluation.FILES, sync.FILE, health_pb2.DESCRIPTOR))
        return server

    def _loop_was_late(self, seconds: float) -> None:
        self._metrics.loop_was_late(seconds)
        self._lateness.measured(seconds, time.monotonic())

    def _late(self, late: bool) -> None:
        """Refuse new evaluations while the event loop is late, and say so once."""
        self._admission.gate.set(late=late)
        if late:
            log.warning("overloaded", detail="The event loop is late; new evaluations are refused until it is on time.")
        else:
            log.info("overload_over", detail="The event loop is on time again.")

    def _samples(self) -> Iterator[Sample]:
        about = "Calls and streams in progress, by kind."
        refused = "Calls and streams refused because their kind was at its limit or the event loop was late."
        for pool in self._admission.pools:
            yield Sample("flagsvc_calls_in_progress", about, pool.taken, {"kind": pool.name})
            yield Sample("flagsvc_refused_total", refused, pool.refused, {"kind": pool.name})
        about = "gRPC calls ended because their message did not arrive in time."
        yield Sample("flagsvc_calls_without_message_total", about, self._first_messages.ended)
        about = "Times that gRPC had stopped by itself and was started again."
        yield Sample("flagsvc_grpc_replacements_total", about, self._grpc.replaced)
        if self._http is not None:
            connections = self._http.connections
            yield Sample("flagsvc_ofrep_connections", "Open connections to the OFREP port.", connections.open)
            about = "Connections to the OFREP port that were closed because there were too many."
            yield Sample("flagsvc_ofrep_connections_refused_total", about, connections.refused)
        yield Sample("flagsvc_watch_streams", "Open WatchFlags streams.", self._watches.active)
        about = "Open event streams of flagd's evaluation services."
        yield Sample("flagsvc_event_streams", about, self._event_streams.active)
        yield Sample("flagsvc_ofrep_streams", "Open event streams of OFREP.", self._ofrep.streams.active)
        about = "Bytes sent to clients that they have not taken yet."
        yield Sample("flagsvc_outstanding_bytes", about, self._outflow.outstanding)
        about = "Streams ended because their clients did not read."
        yield Sample("flagsvc_stalled_streams_total", about, self._outflow.stalled)
        yield Sample("flagsvc_sync_streams", "Open streams of flagd's sync service.", self._sync.active)


def _limits(settings: Settings) -> Limits:
    return Limits(
        evaluations=settings.max_calls,
        writes=settings.max_writes,
        administration=settings.max_admin_calls,
        streams=settings.max_streams,
        streams_per_peer=settings.max_streams_per_peer,
    )


@contextlib.contextmanager
def _bind_errors(host: str, port: int) -> Iterator[None]:
    """Add the address to an OSError from binding it: `cannot listen on 0.0.0.0:8013: address already in use`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise OSError(f"cannot listen on {host_and_port(host, port)}: {reason[:1].lower()}{reason[1:]}") from None


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    collector.configure()
    sys.setswitchinterval(SWITCH_S)
    descriptors.raise_limit()
    server = Server(settings)
    try:
        await server.start()
    except OSError as error:
        log.error("start_failed", error=str(error))  # noqa: TRY400  the text is complete without a traceback
        return 1
    await _stop_requested()
    await server.stop()
    return 0


async def _stop_requested() -> None:
    """Wait for SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    requested = asyncio.Event()

    def request() -> None:
        for number in STOP:
            loop.remove_signal_handler(number)
        exit_at_once_on(*STOP)
        requested.set()

    for number in STOP:
        loop.add_signal_handler(number, request)
    await requested.wait()
