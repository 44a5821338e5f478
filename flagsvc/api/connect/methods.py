"""The methods that are served, and the handlers of the gRPC services behind their interceptors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its path, the classes of its messages, and whether its answers are a stream."""

    path: str
    request: type[Message]
    response: type[Message]
    streams: bool


def methods_of(files: Iterable[Any]) -> dict[str, Method]:
    """Return the methods of all services in some files' descriptors, by path."""
    services = [service for file in files for service in file.services_by_name.values()]
    methods = [
        Method(
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.server_streaming,
        )
        for service in services
        for method in service.methods
        if not method.client_streaming
    ]
    return {method.path: method for method in methods}


class CallDetails(NamedTuple):
    """What interceptors know of a call."""

    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


class Handlers:
    """What services register at a gRPC server, for calls that come by another way; interceptors included."""

    def __init__(self, interceptors: Sequence[Any]) -> None:
        self._interceptors = interceptors
        self._services: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Take a service's handlers."""
        self._services += handlers

    def add_registered_method_handlers(self, _service: str, _handlers: Mapping[str, Any]) -> None:
        """Take nothing: generated code registers the same handlers in both ways."""

    async def of(self, details: CallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, as the interceptors wrap it; None if there is none."""
        next_one = self._found
        for interceptor in reversed(self._interceptors):
            next_one = partial(interceptor.intercept_service, next_one)
        return await next_one(details)

    async def _found(self, details: CallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        handlers = (service.service(details) for service in self._services)
        return next((handler for handler in handlers if handler is not None), None)
