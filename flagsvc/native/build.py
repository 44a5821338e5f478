"""The native transport as the settings want it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.handlers import Handlers
from flagsvc.api.common.interceptors import label
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.permissions import METHODS
from flagsvc.grpc_listeners import GrpcServices
from flagsvc.limits.build import Limiting
from flagsvc.limits.second_thread import SecondThread
from flagsvc.limits.weights import kind_of
from flagsvc.native.check import check, warn
from flagsvc.native.direct import EVALUATE, Parts, direct_methods
from flagsvc.replica import Replica
from flagsvc.serving.second_reader import SecondReader
from flagsvc.settings import Settings
from flagsvc.telemetry import Metrics

if TYPE_CHECKING:
    from flagsvc.native.transport import Native

PASSED_ON = ("/grpc.", "/flagd.sync.")
"""Services that pass through to gRPC, as all streams do: health, reflection, and answers of whole flag sets."""


def native_of(
    settings: Settings,
    replica: Replica,
    services: GrpcServices,
    listener: Listener,
    *,
    contexts: Contexts,
    limiting: Limiting,
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
    from flagsvc.native.answering import Method  # noqa: PLC0415  the package is optional
    from flagsvc.native.transport import Native  # noqa: PLC0415

    limits = limiting.limits
    shares = SecondThread(limits.tables[kind_of(EVALUATE) or ""]) if limits is not None else None
    reader = SecondReader(replica.near, metrics.evaluated_elsewhere())
    replica.reader.other_stats.append(reader.stats)
    # Callers of streams are not known by their connection, so each stream covers what any of them has selected.
    streams = services.event_streams
    streams.knows_connections = False
    authority = replica.access.authority if replica.access is not None else None
    direct = direct_methods(Parts(reader, contexts, listener, authority, shares, streams.covers_for_all))
    handlers = services.handlers(listener)
    paths = (*direct, *(path for path in METHODS if path not in direct and _is_unary(path, handlers)))
    return Native(
        [Method(path, direct.get(path), metrics.calls.another(label(path))) for path in paths],
        handlers,
        is_stopping=lambda: admission.gate.stopping,
        before=shares.fold if shares is not None else lambda: None,
        max_streams=settings.max_calls_per_connection,
        max_waiting=settings.max_pending_calls,
        max_unread=settings.outstanding_bytes,
        ended=ended,
    )


def _is_unary(path: str, handlers: Handlers) -> bool:
    """Whether the front hands over a method's calls. Their callers' addresses are known."""
    handler = None if path.startswith(PASSED_ON) else handlers.of(path)
    return handler is not None and handler.stream_unary is not None
