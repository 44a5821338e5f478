"""What the HTTP/1.1 side of each port serves: Connect and gRPC-Web on the gRPC port, and OFREP's port beside OFREP."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from starlette.types import ASGIApp

from flagsvc.api.common.handlers import Handlers
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.connect.app import ByPath, Connect, not_found
from flagsvc.api.flagd import evaluation
from flagsvc.grpc_listeners import OWN_FILES, GrpcServices
from flagsvc.setting_values import host_names, origins
from flagsvc.settings import Settings


class HttpApps:
    """The ASGI applications. Calls get the answers of the gRPC listener, whichever port they come by."""

    def __init__(
        self,
        services: GrpcServices,
        listener: Listener,
        outflow: Outflow,
        settings: Settings,
        *,
        ofrep_listener: Listener,
    ) -> None:
        self._services, self._outflow = services, outflow
        self._listener, self._ofrep_listener = listener, ofrep_listener
        self._origins, self._host_names = origins(settings.cors_origins), host_names(settings.http_host_names)

    def of_grpc_port(self) -> ASGIApp:
        """Return what the gRPC port serves: the services that change flags too, as over gRPC."""
        handlers = self._services.handlers(self._listener)
        own = Connect(OWN_FILES, handlers, self._outflow)
        guarded = own.guarded_app(self._origins, self._host_names)
        return ByPath([self._evaluations(handlers), (own.methods, guarded)], not_found)

    def of_ofrep_port(self, ofrep: ASGIApp) -> ASGIApp:
        """Return what OFREP's port serves. Nobody changes a flag there, for it may be open to web pages."""
        # The default flag set is the gRPC port's, but who may call without a credential is this port's matter.
        listener = replace(self._listener, anonymous=self._ofrep_listener.anonymous)
        return ByPath([self._evaluations(self._services.handlers(listener))], ofrep)

    def _evaluations(self, handlers: Handlers) -> tuple[Collection[str], ASGIApp]:
        flagd = Connect(evaluation.FILES, handlers, self._outflow)
        return flagd.methods, flagd.app(self._origins)
