"""What surrounds every call: admission, the error map, and the measure. Outermost, so that nothing passes it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import structlog

from flagsvc.core.errors import FlagsvcError, Overloaded, Stopping, invalid
from flagsvc.rpc.status import Failure, failure_of
from flagsvc.telemetry import Metrics

log = structlog.get_logger(__name__)
LINGER_S = 0.1
LINGER_MAX_S = 1.0
_OWN = "/flagsvc.v1.FlagService/"
_EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]


class Guard(grpc.aio.ServerInterceptor):
    """Sheds load, maps errors and counts calls. Probes are never refused; streams and calls are counted apart."""

    def __init__(self, metrics: Metrics, max_calls: int, max_streams: int) -> None:
        self._metrics = metrics
        self._free = {False: max_calls, True: max_streams}
        self._limits = dict(self._free)
        self._stopping = False
        self._refused_at = 0.0
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, so that none is cut off, and wait for those under way; at most `grace_s`."""
        self._stopping = True
        await _until(lambda: self._free == self._limits, grace_s)
        # A call that comes in while the transport stops would be cut off: let the callers notice first.
        await _until(lambda: time.monotonic() - self._refused_at > LINGER_S, LINGER_MAX_S)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap a method's handler once, in a handler of the same kind."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_EXEMPT):
            return handler
        if handler.unary_unary is not None:
            wrapped = grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary),
                _or_unreadable(handler.request_deserializer),
                handler.response_serializer,
            )
        elif handler.unary_stream is not None:
            wrapped = grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                _or_unreadable(handler.request_deserializer),
                handler.response_serializer,
            )
        else:
            raise NotImplementedError(method)
        self._wrapped[method] = wrapped
        return wrapped

    def _unary(self, method: str, call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        name = _label(method)

        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                self._enter(False)
                try:
                    _check(request)
                    return await call(request, context)
                finally:
                    self._free[False] += 1
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  the map decides what may be told
                failure = _told(method, error)
                code = failure.code
                await context.abort(code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, code.name, time.perf_counter() - started)

        return guarded

    def _stream(self, method: str, call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        name = _label(method)

        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                self._enter(True)
                try:
                    _check(request)
                    async for message in call(request, context):
                        yield message
                finally:
                    self._free[True] += 1
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                failure = _told(method, error)
                await context.abort(failure.code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, "STREAM", time.perf_counter() - started)

        return guarded

    def _enter(self, stream: bool) -> None:
        if self._stopping:
            self._refused_at = time.monotonic()
            raise Stopping
        if self._free[stream] <= 0:
            raise Overloaded(
                f"the server already serves as many {'streams' if stream else 'calls'} as it can; try again"
            )
        self._free[stream] -= 1


class _Unreadable:
    """Stands for a request whose bytes are no message; the transport would tell the caller the parser's own words."""


def _or_unreadable(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if parse is None:
        return None

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except Exception:  # noqa: BLE001  whatever the parser says is not for the caller
            return _Unreadable()

    return parsed


def _check(request: Any) -> None:
    if isinstance(request, _Unreadable):
        wanted = "a message of the method's type, its texts UTF-8, nested less than 100 levels (a list takes two)"
        raise invalid("request", "bytes that cannot be parsed", wanted, "INVALID_REQUEST")


def _label(method: str) -> str:
    """Give the name for metrics: FlagService's calls by their own, those of other services with the service's."""
    return method.removeprefix(_OWN).removeprefix("/")


def _told(method: str, error: Exception) -> Failure:
    """Give what the caller is told; what is not the domain's goes to the log under an id that the caller can name."""
    failure = failure_of(error)
    if isinstance(error, FlagsvcError):
        return failure
    request_id = uuid.uuid4().hex[:12]
    log.error("call failed", method=method, request_id=request_id, exc_info=error)
    return replace(failure, message=f"{failure.message}; request id {request_id}")


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  ends at the deadline
        await asyncio.sleep(0.01)
