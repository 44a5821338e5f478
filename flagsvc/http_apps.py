"""What the HTTP/1.1 side of each port serves: Connect and gRPC-Web on the gRPC port, and OFREP's port beside OFREP."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp

from flagsvc.api.common.listener import Listener
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.connect.app import ByPath, Connect, not_found
from flagsvc.api.connect.methods import Handlers
from flagsvc.api.flagd import evaluation
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.grpc_listeners import GrpcServices
from flagsvc.setting_values import host_names, origins
from flagsvc.settings import Settings


class HttpApps:
    """The ASGI applications. Calls get the answers of the gRPC listener, whichever port they come by."""

    def __init__(self, services: GrpcServices, listener: Listener, outflow: Outflow, settings: Settings) -> None:
        handlers = Handlers(services.interceptors())
        services.add_to(handlers, listener)  # type: ignore[arg-type]  # it has what registering uses
        self._flagd = Connect(evaluation.FILES, handlers, outflow)
        self._flag_service = Connect((pb.DESCRIPTOR,), handlers, outflow)
        self._origins, self._host_names = origins(settings.cors_origins), host_names(settings.http_host_names)

    def of_grpc_port(self) -> ASGIApp:
        """Return what the gRPC port serves: the services that change flags too, as over gRPC."""
        guarded = self._flag_service.guarded_app(self._origins, self._host_names)
        return ByPath([self._evaluations(), (self._flag_service.methods, guarded)], not_found)

    def of_ofrep_port(self, ofrep: ASGIApp) -> ASGIApp:
        """Return what OFREP's port serves. Nobody changes a flag there, for it may be open to web pages."""
        return ByPath([self._evaluations()], ofrep)

    def _evaluations(self) -> tuple[Collection[str], ASGIApp]:
        return self._flagd.methods, self._flagd.app(self._origins)
