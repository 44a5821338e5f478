"""The interceptor around every gRPC call: admission, error mapping and metrics. Outermost, so nothing bypasses it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.request_limits import check_readable, parse_within_limits
from flagsvc.telemetry import Metrics

_OWN = "/flagsvc.v1.FlagService/"
_EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls, maps their errors and measures them. Health checks and reflection are never refused."""

    def __init__(self, metrics: Metrics, admission: Admission) -> None:
        self._metrics, self._admission = metrics, admission
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the wrapped handler of a method: made once, of the same kind. Only responses may stream."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_EXEMPT):
            return handler
        codec = parse_within_limits(method, handler.request_deserializer), handler.response_serializer
        if handler.unary_unary is not None:
            wrapped = grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *codec)
        elif handler.unary_stream is not None:
            wrapped = grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), *codec)
        else:
            raise NotImplementedError(method)
        self._wrapped[method] = wrapped
        return wrapped

    def _unary(self, method: str, call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        name = _label(method)

        async def intercepted(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                with self._admission.call():
                    check_readable(request)
                    return await call(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
                failure = failure_for(method, error)
                code = failure.code
                await context.abort(code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, code.name, time.perf_counter() - started)

        return intercepted

    def _stream(self, method: str, call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        name = _label(method)

        async def intercepted(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                with self._admission.stream():
                    check_readable(request)
                    async for message in call(request, context):
                        yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                failure = failure_for(method, error)
                await context.abort(failure.code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, "STREAM", time.perf_counter() - started)

        return intercepted


def _label(method: str) -> str:
    """Return a method's name for metrics: `EvaluateFlag`, but `schema.v1.Service/ResolveAll` for other services."""
    return method.removeprefix(_OWN).removeprefix("/")
