"""The server interceptor for `grpc.server`, and the guard of handlers that are not asyncio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import grpc

from flagsvc_client.details import Context
from flagsvc_client.guards.rules import (
    DISABLED,
    ContextOf,
    Refusal,
    Rule,
    Rules,
    by_name,
    check_client,
    context_of_metadata,
    verdict,
    verdict_on_error,
)
from flagsvc_client.sync import FlagClient

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Check = Callable[[Any], Refusal | None]
"""Takes a call's ServicerContext; returns the refusal, or None if the call may pass."""


class FlagGuard(grpc.ServerInterceptor):
    """Refuses calls of a gRPC service while the flag of their method is off.

    `rules`: a flag's key or Rule for each "/package.Service/Method" or "/package.Service/*". `context_of`: returns
    the evaluation context; by default from headers, see `context_of_metadata`. `end_streams`: check again before each
    message of a stream, and end it with the refusal; a silent stream goes on until its next message. Use a client with
    local=True in that case, otherwise each message costs a call.
    """

    def __init__(
        self,
        client: FlagClient,
        rules: Mapping[str, str | Rule | None],
        *,
        context_of: ContextOf = context_of_metadata,
        end_streams: bool = False,
    ) -> None:
        check_client(client, asynchronous=False)
        self._client = client
        self._rules = Rules(rules)
        self._context_of = context_of
        self._end_streams = end_streams

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, guarded if there is a rule for it."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        rule = self._rules.of(method)
        if handler is None or rule is None:
            return handler

        def check(context: Any) -> Refusal | None:
            metadata = by_name(context.invocation_metadata())
            return ask(self._client, rule, lambda: self._context_of(metadata, method))

        return rebuilt(handler, guarded(handler, check, end_streams=self._end_streams))


def ask(client: FlagClient, rule: Rule, context_of: Callable[[], Context]) -> Refusal | None:
    """Return None if the flag lets the call pass, otherwise the refusal."""
    try:
        return verdict(rule, client.details(rule.flag, context_of(), default=False))
    except Exception as error:  # noqa: BLE001  whatever failed, the flag could not be evaluated
        return verdict_on_error(rule, error)


def abort(context: Any, refusal: Refusal) -> None:
    """End the call with the refusal; raises what the transport raises."""
    _add_trailers(context, refusal)
    context.abort(refusal.code, refusal.message)


def guarded(handler: Handler, check: Check, *, end_streams: bool) -> Callable[..., Any]:
    """Return a function that calls the handler if the call may pass.

    With `end_streams` it checks again before each message: a response, or a request if there is only one response.
    """
    call = function_of(handler)

    def answer(request: Any, context: Any) -> Any:
        _admit(context, check)
        if end_streams and handler.request_streaming:
            request = _checked(request, context, check)
        return call(request, context)

    def answers(request: Any, context: Any) -> Iterator[Any]:
        _admit(context, check)
        for message in call(request, context):
            refusal = _off(context, check) if end_streams else None
            if refusal is not None:
                # No abort: in an asyncio server, it could leave this thread waiting for ever.
                _add_trailers(context, refusal)
                context.set_code(refusal.code)
                context.set_details(refusal.message)
                return
            yield message

    return answers if handler.response_streaming else answer


def _admit(context: Any, check: Check) -> None:
    refusal = check(context)
    if refusal is not None:
        abort(context, refusal)


def _checked(messages: Iterator[Any], context: Any, check: Check) -> Iterator[Any]:
    for message in messages:
        refusal = _off(context, check)
        if refusal is not None:
            abort(context, refusal)
        yield message


def _off(context: Any, check: Check) -> Refusal | None:
    """Check again: a running stream goes on while its flag cannot be evaluated."""
    refusal = check(context)
    return refusal if refusal is not None and refusal.reason == DISABLED else None


def _add_trailers(context: Any, refusal: Refusal) -> None:
    earlier = context.trailing_metadata() if hasattr(context, "trailing_metadata") else None
    context.set_trailing_metadata((*(earlier or ()), *refusal.trailers()))


def function_of(handler: Handler) -> Callable[..., Any]:
    """Return the one function of a handler."""
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return next(function for function in kinds if function is not None)


def rebuilt(handler: Handler, function: Callable[..., Any]) -> Handler:
    """Return a handler of the same kind with another function."""
    kind: Callable[..., Handler] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return kind(function, handler.request_deserializer, handler.response_serializer)
