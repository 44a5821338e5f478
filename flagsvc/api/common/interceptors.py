"""What surrounds every call: admission, the error map, and the measure. Outermost, so that nothing passes it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import structlog

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.failures import Failure, failure_of
from flagsvc.core.errors import FlagsvcError, invalid
from flagsvc.telemetry import Metrics

log = structlog.get_logger(__name__)
_OWN = "/flagsvc.v1.FlagService/"
_EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]


class Guard(grpc.aio.ServerInterceptor):
    """Asks for admission, maps errors and counts calls. Probes are never refused."""

    def __init__(self, metrics: Metrics, admission: Admission) -> None:
        self._metrics, self._admission = metrics, admission
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

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
                self._admission.enter(False)
                try:
                    _check(request)
                    return await call(request, context)
                finally:
                    self._admission.leave(False)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  the map decides what may be told
                failure = told(method, error)
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
                self._admission.enter(True)
                try:
                    _check(request)
                    async for message in call(request, context):
                        yield message
                finally:
                    self._admission.leave(True)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                failure = told(method, error)
                await context.abort(failure.code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, "STREAM", time.perf_counter() - started)

        return guarded


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


def told(method: str, error: Exception) -> Failure:
    """Give what the caller is told; what is not the domain's goes to the log under an id that the caller can name."""
    failure = failure_of(error)
    if isinstance(error, FlagsvcError):
        return failure
    request_id = uuid.uuid4().hex[:12]
    log.error("call failed", method=method, request_id=request_id, exc_info=error)
    return replace(failure, message=f"{failure.message}; request id {request_id}")
