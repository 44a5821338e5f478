"""Limits the calls of a gRPC server, and of Connect and gRPC-Web, which use the same interceptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from flagsvc.api.common.handlers import Handler
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers
from flagsvc.limits.callers import share_of
from flagsvc.limits.rate_limits import RateLimits
from flagsvc.limits.table import Table
from flagsvc.limits.weights import CountFlags, kind_of, weigher_of

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Any], Any]


class RateLimiting:
    """Inside the interceptor that reads messages and maps errors: a handler that it wraps raises RateLimited.

    What it puts before a handler is no coroutine, so a call within its rate waits for nothing more.
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
            call = self._limited(method, table, handler.unary_unary, streams=False)
            return grpc.unary_unary_rpc_method_handler(call, *codec)
        if handler.unary_stream is not None:
            call = self._limited(method, table, handler.unary_stream, streams=True)
            return grpc.unary_stream_rpc_method_handler(call, *codec)
        if handler.stream_stream is not None:
            call = self._limited(method, table, handler.stream_stream, streams=True)
            return grpc.stream_stream_rpc_method_handler(call, *codec)
        raise NotImplementedError(method)

    def _limited(self, method: str, table: Table, call: Call, *, streams: bool) -> Call:
        peer_of, take = self._peers.of, self._limits.take
        weigh = weigher_of(method, self._selectors, self._count, streams=streams)

        def limited(request: Any, context: Context) -> Any:
            share = share_of(table, context, peer_of)
            units = 1 if weigh is None else weigh(request, context.invocation_metadata())
            if share.left >= share.low:
                share.left -= units
            else:
                take(table, share, units)
            return call(request, context)

        return limited
