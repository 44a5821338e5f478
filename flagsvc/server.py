"""A replica behind its ports: startup, serving and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import structlog

from flagsvc import collector, descriptors
from flagsvc.answers.answers import Answers
from flagsvc.api.common.admission import Admission, Limits
from flagsvc.api.common.bulk import EvaluatedBulk
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.gate import check_of
from flagsvc.api.common.lateness import Lateness
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.common.peers import peer_name
from flagsvc.api.common.permissions import ROUTES
from flagsvc.api.common.selectors import Selectors
from flagsvc.api.http.server import HttpServer
from flagsvc.api.ofrep.app import Ofrep
from flagsvc.audit.build import Audit
from flagsvc.auth_mode import auth_mode, warn
from flagsvc.background import BackgroundTasks
from flagsvc.front.server import Front
from flagsvc.grpc_listeners import GrpcServices, grpc_server
from flagsvc.health import Health
from flagsvc.http_apps import HttpApps
from flagsvc.lasting_server import LastingServer
from flagsvc.limits.build import Limiting
from flagsvc.listening import OFF, Address
from flagsvc.loop_lag import LoopLag
from flagsvc.management import ManagementServer
from flagsvc.native.build import native_of
from flagsvc.replica import Replica
from flagsvc.setting_values import LISTENERS, anonymous_roles, default_sets, origins, pairs
from flagsvc.settings import Settings
from flagsvc.signals import STOP, exit_at_once_on
from flagsvc.telemetry import Metrics, Sample
from flagsvc.tls.ports import Ports
from flagsvc.tokens_file.follow import Following
from flagsvc.turns import SWITCH_S
from flagsvc.urls import redacted

if TYPE_CHECKING:
    from flagsvc.issuers.issuers import Issuers

log = structlog.get_logger(__name__)


class Server:
    """One replica with its ports. A port is 0 in the settings to let the system choose one, and -1 to leave it out."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.replica = replica = Replica(settings)
        self._authority = replica.access.authority if replica.access is not None else None
        self._metrics = metrics = Metrics(lambda: chain(replica.samples(), self._samples()))
        bulk = EvaluatedBulk(metrics.evaluated)
        self._answers = answers = Answers(bulk, replica.near, metrics, settings.answer_cache_bytes)
        self._health = Health(replica.is_ready, replica.details())
        self._admission = admission = Admission(_limits(settings))
        self._lateness = Lateness(self._late)
        self._tls = tls = Ports(settings)
        is_native = settings.transport == "native"
        ports = descriptors.TWICE if is_native else descriptors.PASSED_ON if tls.has_front else 1
        ports += sum(port != OFF for port in (settings.sync_port, settings.ofrep_port))
        self._max_connections = descriptors.connections_per_port(
            settings.max_connections, descriptors.limit(), settings.store_connections, ports
        )
        self._outflow = outflow = Outflow(settings.outstanding_bytes)
        self._issuers = self._issuers_of(settings)
        contexts = Contexts(
            pairs(settings.context_values),
            pairs(settings.context_from_headers),
            may_prove=self._issuers is not None,
        )
        self._limiting = limiting = Limiting(settings, replica)
        self._audit = audit = Audit(replica)
        self._tokens_file = Following(settings, replica)
        self.services = GrpcServices(
            replica,
            contexts,
            admission=admission,
            metrics=metrics,
            bulk=answers,
            health=self._health,
            outflow=outflow,
            inner=(*audit.wrappers(), *limiting.wrappers()),
            before=limiting.before,
            refuse=audit.refuse,
        )
        sets, anonymous = default_sets(settings.default_flag_set), anonymous_roles(settings.anonymous)
        self.listeners = {
            name: Listener(name, Selectors(sets.get(name), replica.flag_sets), anonymous.get(name))
            for name in LISTENERS
        }
        names = ("grpc",) if settings.sync_port == OFF else ("grpc", "sync")
        self._grpc = {
            name: grpc_server(self.listeners[name], self.services, settings, self._max_connections, tls.add_port(name))
            for name in names
        }
        self.failed = False
        """Whether the server stops because a part of it has failed."""
        self._native = native_of(
            settings,
            replica,
            self.services,
            self.listeners["grpc"],
            contexts=contexts,
            limiting=limiting,
            admission=admission,
            metrics=metrics,
            ended=self._native_ended,
        )
        self._ofrep = Ofrep(
            replica.reader,
            replica.near,
            contexts,
            admission,
            metrics,
            bulk=answers,
            listener=self.listeners["ofrep"],
            outflow=outflow,
            authority=self._authority,
            age_s=settings.connection_age_s,
            origins=origins(settings.cors_origins),
            limited=limiting.ofrep(self.listeners["ofrep"]),
        )
        self._http_apps = HttpApps(
            self.services, self.listeners["grpc"], outflow, settings, ofrep_listener=self.listeners["ofrep"]
        )
        self._http: HttpServer | None = None
        self._front: Front | None = None
        self._management: ManagementServer | None = None
        self._tasks = BackgroundTasks()
        self._loop_lag = LoopLag(self._loop_was_late, settings.log_loop_lag_s)
        self.addresses: dict[str, Address] = {}
        """Where each port listens, by the name of its listener; the management port is `management`."""
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
        if self._issuers is not None:
            await self._issuers.start()
        self._tasks.start(self._health.run(), "health")
        self._tasks.start(self._loop_lag.run(), "loop-lag")
        self._tasks.start(self._tls.run(), "tls")
        self._limiting.start(self._tasks)
        self._audit.start(self._tasks)
        self._tokens_file.start(self._tasks)
        for name, server in self._grpc.items():
            await server.start()
            self._tasks.start(server.run(), name)
        if self._http is not None:
            await self._http.start()
        if self._front is not None:
            await self._front.start()
        if self._native is not None:
            self._native.start()
        log.info(
            "serving",
            **{_setting_of(name): address.port or str(address) for name, address in self.addresses.items()},
            store=redacted(self.settings.store_url),
            cache=redacted(self.settings.cache_url),
            max_open_files=descriptors.limit(),
            connections_per_port=self._max_connections,
            tls=self._tls.encrypted,
        )

    async def stop(self) -> None:
        """Shut down in an order that cuts off no call, unless one lasts longer than `grace_s`."""
        log.info("stopping", drain_s=self.settings.drain_s, grace_s=self.settings.grace_s)
        # Not ready first: load balancers need time to notice before calls are refused.
        self._health.stop()
        await asyncio.sleep(self.settings.drain_s)
        # Streams do not end by themselves, and admission would wait for them for the whole grace period.
        self.services.close_streams()
        self._ofrep.streams.close()
        # New calls get an error that clients retry elsewhere; those in progress finish.
        await self._admission.stop(self.settings.grace_s, lingers=self.settings.drain_s > 0)
        # The transports after the calls, which they would cut off. Nobody connects to a server that stops.
        if self._front is not None:
            self._front.close()
        if self._native is not None:
            await self._native.stop()
        grpc_stops = (server.stop(0.5) for server in self._grpc.values())
        await asyncio.gather(*grpc_stops, *([self._http.stop()] if self._http is not None else []))
        if self._front is not None:
            await self._front.stop()
        await self._tasks.close()
        if self._issuers is not None:
            await self._issuers.close()
        await self._audit.close()
        # The replica after the transports, whose calls use its store and cache.
        await self.replica.stop()
        # Probes and metrics are served to the end.
        if self._management is not None:
            await self._management.stop()
        self._remove_socket_files()
        log.info("stopped")

    def _issuers_of(self, settings: Settings) -> Issuers | None:
        """Let callers be recognized by what others prove, if a file says whom to trust."""
        access = self.replica.access
        if not settings.jwt_issuers_file:
            return None
        if access is None:
            log.warning("issuers_not_used", detail="FLAGSVC_JWT_ISSUERS_FILE has no effect with FLAGSVC_AUTH=off.")
            return None
        from flagsvc.issuers.issuers import Issuers  # noqa: PLC0415  its libraries are imported only if they are used

        issuers = Issuers(settings.jwt_issuers_file, access.authority.sessions.check_all)
        access.recognize(issuers)
        return issuers

    def _bind_ports(self) -> None:
        settings = self.settings
        for name, server in self._grpc.items():
            with self._address(name) as address:
                if name == "grpc" and self._native is not None:
                    self._native.listen(address)
                    behind = self._native.behind
                    self._front = self._front_at(behind.address, server, behind.name_of)
                elif name == "grpc" and self._tls.has_front:
                    self._front = self._front_at(address, server)
                else:
                    server.listen(address)
        if settings.ofrep_port != OFF:
            with self._address("ofrep") as address:
                self._http = HttpServer(
                    self._http_apps.of_ofrep_port(self._ofrep.app),
                    address.socket(),
                    max_connections=self._max_connections,
                    max_per_peer=settings.max_connections_per_peer,
                    acceptor=self._tls.acceptor("ofrep"),
                )
        if settings.management_port != OFF:
            with self._address("management") as address:
                check = check_of(ROUTES["GET /metrics"], self._authority, Listener("management", Selectors()))
                self._management = ManagementServer(
                    address.socket(), self._health, self._metrics, check, self._tls.acceptor("management")
                )
        for name, address in self.addresses.items():
            setattr(self, _setting_of(name), address.port)

    def _front_at(self, address: Address, grpc: LastingServer, name_of: Callable[[Any], str] = peer_name) -> Front:
        """Return the front of the gRPC port, bound, with gRPC bound behind it. `name_of`: names connections' peers."""
        http = HttpServer(
            self._http_apps.of_grpc_port(),
            None,
            max_connections=self._max_connections,
            max_per_peer=self.settings.max_connections_per_peer,
        )
        services = self.services
        front = Front(
            address.socket(),
            http,
            services.peers,
            lambda: services.first_messages.begun,
            self._tls.open_front,
            outer=address.path,
            name_of=name_of,
        )
        grpc.listen(front.inner)
        return front

    @contextlib.contextmanager
    def _address(self, name: str) -> Iterator[Address]:
        """Return where a port listens by its settings; an OSError from binding it gets the address as text.

        Example: `cannot listen on 0.0.0.0:8013: address already in use`.
        """
        host = self.settings.management_host if name == "management" else ""
        address = Address(host or self.settings.host, getattr(self.settings, _setting_of(name)))
        self.addresses[name], wanted = address, str(address)
        try:
            yield address
        except OSError as error:
            self._remove_socket_files()
            reason = (error.strerror or str(error)).partition(" (")[0]
            raise OSError(f"cannot listen on {wanted}: {reason[:1].lower()}{reason[1:]}") from None

    def _remove_socket_files(self) -> None:
        for address in self.addresses.values():
            address.remove()

    def _native_ended(self) -> None:
        """Stop: nobody answers evaluations any more."""
        self.failed = True
        self._health.stop()
        signal.raise_signal(signal.SIGTERM)

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
        yield from self.services.samples()
        yield from self._answers.samples()
        yield from self._tls.samples()
        if self._issuers is not None:
            yield from self._issuers.samples()
        if self._native is not None:
            yield from self._native.samples()
        yield from self._limiting.samples()
        yield from self._audit.samples()
        yield from self._tokens_file.samples()
        about = "Times that a gRPC server had stopped by itself and was started again."
        replaced = sum(server.replaced for server in self._grpc.values())
        yield Sample("flagsvc_grpc_replacements_total", about, replaced)
        if self._http is not None:
            connections = self._http.connections
            yield Sample("flagsvc_ofrep_connections", "Open connections to the OFREP port.", connections.open)
            about = "Connections to the OFREP port that were closed because there were too many."
            yield Sample("flagsvc_ofrep_connections_refused_total", about, connections.refused)
        if self._front is not None:
            connections = self._front.connections
            yield Sample("flagsvc_front_connections", "Open connections to the gRPC port.", connections.open)
            about = "Connections to the gRPC port that were closed because there were too many."
            yield Sample("flagsvc_front_connections_refused_total", about, connections.refused)
            about = "Whether the gRPC port reads in large portions because gRPC refuses calls: 1 or 0."
            yield Sample("flagsvc_front_crowded", about, int(self._front.crowding.pause_s > 0))
        yield Sample("flagsvc_ofrep_streams", "Open event streams of OFREP.", self._ofrep.streams.active)
        about = "Bytes sent to clients that they have not taken yet."
        yield Sample("flagsvc_outstanding_bytes", about, self._outflow.outstanding)
        about = "Streams ended because their clients did not read."
        yield Sample("flagsvc_stalled_streams_total", about, self._outflow.stalled)


def _setting_of(name: str) -> str:
    """Return the name of the setting, and of the log field, with a listener's port."""
    return "port" if name == "grpc" else f"{name}_port"


def _limits(settings: Settings) -> Limits:
    return Limits(
        evaluations=settings.max_calls,
        writes=settings.max_writes,
        administration=settings.max_admin_calls,
        streams=settings.max_streams,
        streams_per_peer=settings.max_streams_per_peer,
    )


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. Raises SettingsError where nobody decided who may call."""
    auth_mode(settings)
    warn(settings)
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
    return int(server.failed)


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
