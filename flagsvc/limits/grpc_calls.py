"""Limits the calls of a gRPC server, and of Connect and gRPC-Web, which use the same interceptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.handlers import Handler
from flagsvc.api.common.interceptors import Before
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers
from flagsvc.core.access.identity import Identity
from flagsvc.limits.callers import share_of
from flagsvc.limits.rate_limits import RateLimits
from flagsvc.limits.table import Table
from flagsvc.limits.weights import STREAM_UNITS, CountFlags, Weigh, kind_of, weigher_of

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Any], Any]


def taking_one(limits: RateLimits, kind: str, peers: Peers) -> Before:
    """Return what takes the first unit of each unary call of a class, before the call's message is read.

    A call over its caller's rate is then refused without a slot, before its message is parsed. It raises RateLimited.
    """
    table, take, known, peer_of = limits.tables[kind], limits.take, limits.tables[kind].by_identity, peers.of

    def before(caller: Identity, context: Context) -> None:
        share = known.get(caller) or share_of(table, caller, context, peer_of)
        if share.left >= share.low:
            share.left -= 1
        else:
            take(table, share, 1)

    return before


class RateLimiting:
    """Takes what a call takes beyond its first unit, and the units of streams, once the message is read.

    Inside the interceptor that maps errors: a stream that it wraps raises RateLimited. What it puts before a handler
    is no coroutine, so a call within its rate waits for nothing more.
    """

    def __init__(self, limits: RateLimits, listener: Listener, peers: Peers, count: CountFlags) -> None:
        self._limits, self._selectors, self._peers, self._count = limits, listener.selectors, peers, count

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the limited handler of a method."""
        kind = kind_of(method)
        if kind is None:
            return handler
        table, codec = self._limits.tables[kind], (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary is not None:
            weigh = weigher_of(method, self._selectors, self._count)
            if weigh is None:
                return handler
            return grpc.unary_unary_rpc_method_handler(self._weighed(table, handler.unary_unary, weigh), *codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._opened(table, handler.unary_stream), *codec)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._opened(table, handler.stream_stream), *codec)
        raise NotImplementedError(method)

    def _weighed(self, table: Table, call: Call, weigh: Weigh) -> Call:
        peer_of = self._peers.of

        def weighed(request: Any, context: Context) -> Any:
            units = weigh(request, context.invocation_metadata)
            if units > 1:  # more than was taken before its message was read; it is paid back before the next call
                share_of(table, CALLER.get(), context, peer_of).left -= units - 1
            return call(request, context)

        return weighed

    def _opened(self, table: Table, call: Call) -> Call:
        peer_of, charge = self._peers.of, self._limits.charge

        def opened(request: Any, context: Context) -> Any:
            charge(table, share_of(table, CALLER.get(), context, peer_of), STREAM_UNITS)
            return call(request, context)

        return opened
