"""The native transport as the settings want it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.listener import Listener
from flagsvc.grpc_listeners import GrpcServices
from flagsvc.native.check import check, warn
from flagsvc.native.direct import direct_methods
from flagsvc.replica import Replica
from flagsvc.serving.second_reader import SecondReader
from flagsvc.settings import Settings
from flagsvc.telemetry import Metrics

if TYPE_CHECKING:
    from flagsvc.native.transport import Native


def native_of(
    settings: Settings,
    replica: Replica,
    services: GrpcServices,
    listener: Listener,
    contexts: Contexts,
    *,
    admission: Admission,
    metrics: Metrics,
    ended: Callable[[], None],
) -> Native | None:
    """Return the front of the gRPC port; None with FLAGSVC_TRANSPORT=grpcio. Raises SettingsError.

    `ended`: called in the event loop if the front's thread ends by itself.
    """
    if settings.transport != "native":
        return None
    check(settings)
    warn(settings)
    from flagsvc.native.transport import Native  # noqa: PLC0415  the package is optional

    reader = SecondReader(replica.near, metrics.evaluated_elsewhere())
    replica.reader.other_stats.append(reader.stats)
    direct = direct_methods(reader, contexts, listener.selectors, metrics)
    # Callers of streams are not known by their connection, so each stream covers what any of them has selected.
    services.event_streams.knows_connections = False
    return Native(
        # Who calls is decided in the event loop, where rights change.
        direct if replica.access is None else dict.fromkeys(direct),
        services.handlers(listener),
        is_closed=lambda: admission.gate.closed,
        max_streams=settings.max_calls_per_connection,
        max_waiting=settings.max_pending_calls,
        ended=ended,
    )
