"""The interceptor around every gRPC call: admission, error mapping and metrics. Outermost, so nothing bypasses it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.sending import Encode, Sender
from flagsvc.core.errors import invalid
from flagsvc.telemetry import Metrics

_OWN = "/flagsvc.v1.FlagService/"
_EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls, maps their errors and measures them. Health checks and reflection are never refused.

    Answers are encoded here rather than by gRPC, so that their size is known before they are sent.
    """

    def __init__(self, metrics: Metrics, admission: Admission, sender: Sender) -> None:
        self._metrics, self._admission, self._sender = metrics, admission, sender
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
        parse, encode = _parse_or_unreadable(handler.request_deserializer), handler.response_serializer
        wrapped: grpc.RpcMethodHandler[Any, Any]
        if handler.unary_unary is not None:
            wrapped = grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary, encode), parse)
        elif handler.unary_stream is not None:
            wrapped = grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream, encode), parse)
        else:
            raise NotImplementedError(method)
        self._wrapped[method] = wrapped
        return wrapped

    def _unary(self, method: str, call: Callable[[Any, Any], Any], encode: Encode) -> Callable[..., Any]:
        name, sender = _label(method), self._sender

        async def intercepted(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                with self._admission.call():
                    _check_readable(request)
                    return sender.answer(method, await call(request, context), encode, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
                failure = failure_for(method, error)
                code = failure.code
                await context.abort(code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, code.name, time.perf_counter() - started)

        return intercepted

    def _stream(self, method: str, call: Callable[[Any, Any], Any], encode: Encode) -> Callable[..., Any]:
        name, sender = _label(method), self._sender

        async def intercepted(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                with self._admission.stream():
                    _check_readable(request)
                    async for message in sender.stream(method, call(request, context), encode, context):
                        yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                failure = failure_for(method, error)
                await context.abort(failure.code, failure.message, failure.trailers())
            finally:
                self._metrics.called(name, "STREAM", time.perf_counter() - started)

        return intercepted


class _Unreadable:
    """A request whose bytes cannot be parsed. The transport itself would send the parser's own text to the caller."""


def _parse_or_unreadable(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if parse is None:
        return None

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except Exception:  # noqa: BLE001  no text of the parser reaches the caller
            return _Unreadable()

    return parsed


def _check_readable(request: Any) -> None:
    if isinstance(request, _Unreadable):
        wanted = "a message of the method's type, strings in UTF-8, nested less than 100 levels (a list takes two)"
        raise invalid("request", "bytes that cannot be parsed", wanted, "INVALID_REQUEST")


def _label(method: str) -> str:
    """Return a method's name for metrics: `EvaluateFlag`, but `schema.v1.Service/ResolveAll` for other services."""
    return method.removeprefix(_OWN).removeprefix("/")
