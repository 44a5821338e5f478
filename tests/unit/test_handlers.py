"""A method's handler is wrapped once, the first wrapper outermost; unknown methods have none and leave nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.api.common.handlers import CallDetails, Handler, Handlers
from flagsvc.grpc_listeners import OWN_FILES, OWN_QUEUES

CHECK = "/grpc.health.v1.Health/Check"


class Naming:
    """Puts its name around what a handler returns."""

    def __init__(self, name: str) -> None:
        self.name, self.wrapped = name, 0

    def wrap(self, method: str, handler: Handler) -> Handler:
        self.wrapped += 1
        inner: Any = handler.unary_unary
        return grpc.unary_unary_rpc_method_handler(lambda request, context: f"{self.name}({inner(request, context)})")


class Registered:
    """What is registered at a gRPC server."""

    def __init__(self) -> None:
        self.generic: list[grpc.GenericRpcHandler] = []
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


def test_a_handler_is_wrapped_once() -> None:
    outer, inner = Naming("outer"), Naming("inner")
    handlers = Handlers((outer, inner))
    method = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    handlers.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", {"Do": method}),))
    for _ in range(3):
        found: Any = handlers.service(CallDetails("/a.Service/Do"))
        assert found.unary_unary("x", None) == "outer(inner(x))"
    assert outer.wrapped == inner.wrapped == 1


def test_nothing_is_kept_of_methods_that_do_not_exist() -> None:
    handlers = Handlers(())
    assert [handlers.of(f"/a.Service/{number}") for number in range(100)] == [None] * 100
    assert not handlers._wrapped


def test_methods_with_a_queue_of_their_own_are_registered_by_name_too() -> None:
    """A queue of evaluations that is full refuses no health check."""
    handlers, server = Handlers([]), Registered()
    health_pb2_grpc.add_HealthServicer_to_server(health_pb2_grpc.HealthServicer(), handlers)
    handlers.register(cast("grpc.aio.Server", server), [CHECK])
    assert server.generic == [handlers]
    assert server.methods == {CHECK: handlers.of(CHECK)}


def test_what_an_operator_needs_in_a_flood_exists_and_is_little() -> None:
    """Each name costs every call half a microsecond: gRPC's server waits for the next call of all names at once."""
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (*OWN_FILES, health_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert set(OWN_QUEUES) <= methods
    assert len(OWN_QUEUES) <= 10
