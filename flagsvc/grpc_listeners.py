"""The gRPC listeners of a replica: a server for each, with the same services and with options of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.access.planned_rights import PlannedRights
from flagsvc.api.audit_service.service import AuditService
from flagsvc.api.common import reflection
from flagsvc.api.common.admission import Admission
from flagsvc.api.common.bulk import Bulk
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.first_message import FirstMessages
from flagsvc.api.common.handlers import Handlers, Wrapper
from flagsvc.api.common.interceptors import Before, CallInterceptor, Refuse
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.common.peers import Peers
from flagsvc.api.common.request_limits import MAX_REQUEST_BYTES
from flagsvc.api.common.sending import Sender
from flagsvc.api.flag_service.service import FlagService
from flagsvc.api.flag_service.watch import Watches, evaluation_settings
from flagsvc.api.flagd import evaluation, sync
from flagsvc.api.flagd.evaluation import FlagdEvaluation
from flagsvc.api.flagd.event_streams import EventStreams
from flagsvc.api.flagd.sync import FlagdSync
from flagsvc.api.http.server import MAX_HEAD_BYTES
from flagsvc.api.rollout_service.service import RolloutService
from flagsvc.api.schedule_service.service import ScheduleService
from flagsvc.api.segment_service.service import SegmentService
from flagsvc.api.token_service.service import TokenService
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit_pb
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as audit_pb_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2 as rollout_pb
from flagsvc.generated.flagsvc.v1 import rollout_service_pb2_grpc as rollout_pb_grpc
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as schedule_pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as schedule_pb_grpc
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as segment_pb
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as segment_pb_grpc
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as token_pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as token_pb_grpc
from flagsvc.grpc_paths import tolerate_undecodable
from flagsvc.health import Health
from flagsvc.lasting_server import LastingServer
from flagsvc.replica import Replica
from flagsvc.settings import Settings
from flagsvc.telemetry import Metrics, Sample

OWN_FILES = (pb.DESCRIPTOR, *(each.DESCRIPTOR for each in (token_pb, audit_pb, rollout_pb, schedule_pb, segment_pb)))
"""Descriptors of the files with flagsvc's own services."""
OWN_QUEUES = (
    "/grpc.health.v1.Health/Check",
    *(f"/flagsvc.v1.FlagService/{name}Flag" for name in ("Create", "Update", "Toggle", "Delete", "Rollback")),
    "/flagsvc.v1.RolloutService/RollbackRollout",
    "/flagsvc.v1.TokenService/RevokeToken",
)
"""Methods that a flood of other calls must not delay: probes, and what stops harm. More would slow every call."""
FOREVER_MS = 2**31 - 1
"""What gRPC takes for no limit."""
MakeWrapper = Callable[[Listener, Peers], Wrapper]
"""Makes, for one listener, what wraps its handlers."""
MakeBefore = Callable[[str, Peers], Before | None]
"""Makes what runs before the calls of one method, once their callers are known; None if nothing does."""


class GrpcServices:
    """Every gRPC service of a replica. What they hold is shared by all listeners."""

    def __init__(
        self,
        replica: Replica,
        contexts: Contexts,
        *,
        admission: Admission,
        metrics: Metrics,
        bulk: Bulk,
        health: Health,
        outflow: Outflow,
        inner: Sequence[MakeWrapper] = (),
        before: MakeBefore = lambda _method, _peers: None,
        refuse: Refuse | None = None,
    ) -> None:
        """`inner`: make what wraps handlers within the interceptor that reads messages and maps errors.

        `before`: makes what runs before the message of a unary call is read. `refuse`: notes calls that are refused
        for want of a right.
        """
        self._inner, self._before, self._refuse = inner, before, refuse
        settings, near, reader = replica.settings, replica.near, replica.reader
        self._authority = replica.access.authority if replica.access is not None else None
        self._settings, self._admission, self._metrics, self._health = settings, admission, metrics, health
        self.first_messages = FirstMessages(settings.max_pending_calls, settings.first_message_s)
        self.peers = Peers()
        self._sender = Sender(outflow, self.peers)
        self.watches = Watches(near, reader, settings.connection_age_s, evaluation_settings(contexts.values))
        age_s = settings.stream_age_s or math.inf
        self.event_streams = EventStreams(near, age_s, settings.connection_age_s)
        self.sync = FlagdSync(near, reader, contexts, replica.flag_sets, age_s=age_s)
        self._rollout_service = RolloutService(replica)
        self._flag_service = FlagService(replica, self.watches, contexts, metrics.evaluated, bulk)
        self._token_service, self._audit_service = TokenService(replica.access), AuditService(replica.store.audit)
        self._schedule_service = ScheduleService(replica.planner, PlannedRights(replica.access))
        self._segment_service = SegmentService(replica.store.segments, replica.writer)
        self._evaluation = FlagdEvaluation(
            reader, self.event_streams, contexts, metrics.evaluated, peers=self.peers, bulk=bulk
        )

    def handlers(self, listener: Listener) -> Handlers:
        """Return the handlers of every service for a listener, wrapped."""
        handlers = Handlers(self.wrappers(listener))
        self.add_to(handlers, listener)  # type: ignore[arg-type]  # it has what registering uses
        return handlers

    def wrappers(self, listener: Listener) -> tuple[Wrapper, ...]:
        """Return what wraps a listener's handlers. Admission, time limits and metrics are those of all listeners."""
        outer = CallInterceptor(
            self._metrics,
            self._admission,
            self.first_messages,
            sender=self._sender,
            peers=self.peers,
            authority=self._authority,
            listener=listener,
            refuse=self._refuse,
            before_of=lambda method: self._before(method, self.peers),
        )
        return (outer, *(make(listener, self.peers) for make in self._inner))

    def add_to(self, server: grpc.aio.Server, listener: Listener) -> None:
        """Register every service for a listener, without what wraps its handlers."""
        pb_grpc.add_FlagServiceServicer_to_server(self._flag_service, server)
        token_pb_grpc.add_TokenServiceServicer_to_server(self._token_service, server)
        audit_pb_grpc.add_AuditServiceServicer_to_server(self._audit_service, server)
        rollout_pb_grpc.add_RolloutServiceServicer_to_server(self._rollout_service, server)
        schedule_pb_grpc.add_ScheduleServiceServicer_to_server(self._schedule_service, server)
        segment_pb_grpc.add_SegmentServiceServicer_to_server(self._segment_service, server)
        self._evaluation.add_to(server, listener)
        self.sync.add_to(server, listener)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        if self._settings.reflection:
            reflection.enable(server, (*OWN_FILES, *evaluation.FILES, sync.FILE, health_pb2.DESCRIPTOR))

    def close_streams(self) -> None:
        """End every stream, so that clients reconnect to another replica."""
        for streams in (self.watches, self.event_streams, self.sync):
            streams.close()

    def samples(self) -> Iterator[Sample]:
        """Return the services' counts when Prometheus asks."""
        about = "gRPC calls ended because their message did not arrive in time."
        yield Sample("flagsvc_calls_without_message_total", about, self.first_messages.ended)
        yield Sample("flagsvc_watch_streams", "Open WatchFlags streams.", self.watches.active)
        about = "Open event streams of flagd's evaluation services."
        yield Sample("flagsvc_event_streams", about, self.event_streams.active)
        yield Sample("flagsvc_sync_streams", "Open streams of flagd's sync service.", self.sync.active)


def grpc_server(
    listener: Listener,
    services: GrpcServices,
    settings: Settings,
    max_connections: int,
    add_port: Callable[[grpc.aio.Server, str], int],
) -> LastingServer:
    """Return the server of a listener, which has no address yet. `add_port`: lets it listen."""
    age_s = settings.stream_age_s if listener.name == "sync" else settings.connection_age_s
    options = tuple(_options(settings, max_connections, age_s))
    return LastingServer(listener.name, partial(_build, listener, services, options), add_port)


def _build(listener: Listener, services: GrpcServices, options: tuple[tuple[str, int], ...]) -> grpc.aio.Server:
    """Build a gRPC server with its services. Nothing else knows which transport it is."""
    tolerate_undecodable()
    server = grpc.aio.server(options=options)
    services.handlers(listener).register(server, OWN_QUEUES)
    return server


def _options(settings: Settings, max_connections: int, age_s: float) -> Iterator[tuple[str, int]]:
    """Yield a server's options. `age_s`: seconds after which its connections get no new calls; 0 for no such time."""
    yield from (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", -1),
        # From 8,192 bytes on, gRPC by itself refuses some calls and not others, by chance: those of large JWTs.
        ("grpc.max_metadata_size", MAX_HEAD_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_HEAD_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),  # by default, flagd's Python provider pings as often as it can
        # Else a stream counts until Python has freed it: calls of a client that keeps to the limit are refused.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        ("grpc.max_allowed_incoming_connections", max_connections),
        # Calls wait here while the event loop is busy, those of OWN_QUEUES apart from the others. Beyond the limits
        # gRPC cancels the newest. That costs a twentieth of an answer; an error from Python costs as much as one.
        ("grpc.server.max_pending_requests", settings.max_pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", math.ceil(1.25 * settings.max_pending_calls)),
        ("grpc.max_connection_age_ms", int(age_s * 1000) or FOREVER_MS),
        # A connection goes on for the streams that it has. Those of flagd's clients are to end by themselves only if
        # the operator wants it: to a provider such an end is an error, and it reports STALE.
        ("grpc.max_connection_age_grace_ms", FOREVER_MS),
    )
