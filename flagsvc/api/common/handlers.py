"""The handlers of the services of one listener, each wrapped once, for whichever transport brings the calls.

gRPC would run its interceptors for every call, to find the same handler again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Wrapper(Protocol):
    """Puts something around the handlers of methods, such as a check of their callers."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return what is called instead of a method's handler. It is called once for a method."""
        ...


@dataclass(frozen=True, slots=True)
class CallDetails:
    """What a service finds a handler by."""

    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]] = ()


class Handlers(grpc.GenericRpcHandler):
    """What services register, as at a gRPC server. `wrappers`: the first one is the outermost."""

    def __init__(self, wrappers: Sequence[Wrapper]) -> None:
        self._wrappers = wrappers
        self._services: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take a service's handlers."""
        self._services += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: generated code registers the same handlers in both ways."""

    def register(self, server: grpc.aio.Server, own_queues: Iterable[str] = ()) -> None:
        """Register everything at a server, once all services are added.

        `own_queues`: full names of the methods that are registered by name. gRPC keeps the calls of each of them in a
        queue of its own, so they are not refused because too many calls of other methods wait. They should be few:
        gRPC's server waits for the next call of every name at once, which costs each call half a microsecond a name.
        """
        server.add_generic_rpc_handlers((self,))
        for method in own_queues:
            _, service, name = method.split("/")
            server.add_registered_method_handlers(service, {name: self._of(method)})

    def service(self, handler_call_details: Any) -> Handler | None:
        """Return a call's handler, for gRPC."""
        return self.of(handler_call_details.method)

    def of(self, method: str) -> Handler | None:
        """Return the handler of a method's calls, wrapped; None without such a method."""
        wrapped = self._wrapped.get(method)
        return wrapped if wrapped is not None else self._made(method)

    def _of(self, method: str) -> Handler:
        handler = self.of(method)
        assert handler is not None, method  # noqa: S101  its service is there
        return handler

    def _made(self, method: str) -> Handler | None:
        details: Any = CallDetails(method)
        handlers = (service.service(details) for service in self._services)
        handler = next((handler for handler in handlers if handler is not None), None)
        if handler is None:
            return None  # and is not kept: callers choose the names of methods that do not exist
        for wrapper in reversed(self._wrappers):
            handler = wrapper.wrap(method, handler)
        self._wrapped[method] = handler
        return handler
