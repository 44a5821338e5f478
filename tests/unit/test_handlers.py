"""A method's handler is wrapped once, the first wrapper outermost; unknown methods have none and leave nothing."""

from __future__ import annotations

from typing import Any

import grpc

from flagsvc.api.common.handlers import CallDetails, Handler, Handlers


class Naming:
    """Puts its name around what a handler returns."""

    def __init__(self, name: str) -> None:
        self.name, self.wrapped = name, 0

    def wrap(self, method: str, handler: Handler) -> Handler:
        self.wrapped += 1
        inner: Any = handler.unary_unary
        return grpc.unary_unary_rpc_method_handler(lambda request, context: f"{self.name}({inner(request, context)})")


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
