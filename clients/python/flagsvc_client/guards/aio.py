"""The server interceptor for `grpc.aio.server`. It guards handlers of every kind, including synchronous ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.details import Context
from flagsvc_client.guards import sync
from flagsvc_client.guards.rules import (
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
from flagsvc_client.guards.running_streams import RunningStream, RunningStreams
from flagsvc_client.guards.sync import Handler

Ask = Callable[[Any, Rule, int], Awaitable[Refusal | None]]
"""Takes a call's ServicerContext, its rule and `min_revision`; returns the refusal, or None if it may pass."""


class FlagGuard(grpc.aio.ServerInterceptor):
    """Refuses calls of a gRPC service while the flag of their method is off.

    `rules`: a flag's key or Rule for each "/package.Service/Method" or "/package.Service/*". `context_of`: returns
    the evaluation context; by default from headers, see `context_of_metadata`. `end_streams`: end a running stream with
    the refusal when its flag goes off, by watching the flags while guarded streams run; for a handler this looks like
    a cancellation by the caller. A running stream goes on while its flag cannot be evaluated.
    """

    def __init__(
        self,
        client: AsyncFlagClient,
        rules: Mapping[str, str | Rule | None],
        *,
        context_of: ContextOf = context_of_metadata,
        end_streams: bool = False,
    ) -> None:
        check_client(client, asynchronous=True)
        self._client = client
        self._rules = Rules(rules)
        self._context_of = context_of
        self._streams = RunningStreams(client) if end_streams else None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, guarded if there is a rule for it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        rule = self._rules.of(method)
        if handler is None or rule is None:
            return handler

        async def ask_for(context: Any, rule: Rule, min_revision: int) -> Refusal | None:
            metadata = by_name(context.invocation_metadata())
            return await ask(self._client, rule, lambda: self._context_of(metadata, method), min_revision)

        streaming = handler.request_streaming or handler.response_streaming
        streams = self._streams if streaming else None
        return sync.rebuilt(handler, _guarded(handler, rule, ask_for, streams))


async def ask(
    client: AsyncFlagClient, rule: Rule, context_of: Callable[[], Context], min_revision: int = 0
) -> Refusal | None:
    """Return None if the flag lets the call pass, otherwise the refusal."""
    try:
        details = await client.details(rule.flag, context_of(), default=False, min_revision=min_revision)
        return verdict(rule, details)
    except Exception as error:  # noqa: BLE001  whatever failed, the flag could not be evaluated
        return verdict_on_error(rule, error)


async def abort(context: Any, refusal: Refusal) -> None:
    """End the call with the refusal; raises what the transport raises."""
    earlier = context.trailing_metadata() or ()
    await context.abort(refusal.code, refusal.message, (*earlier, *refusal.trailers()))


def _guarded(handler: Handler, rule: Rule, ask_for: Ask, streams: RunningStreams | None) -> Callable[..., Any]:
    call = sync.function_of(handler)
    if inspect.isasyncgenfunction(call):
        return _generator(call, rule, ask_for, streams)
    if inspect.iscoroutinefunction(call):
        return _coroutine(call, rule, ask_for, streams)
    return _in_thread(handler, rule, ask_for, streams)


def _coroutine(
    call: Callable[..., Any], rule: Rule, ask_for: Ask, streams: RunningStreams | None
) -> Callable[..., Any]:
    async def guarded(request: Any, context: Any) -> Any:
        if streams is None:
            await _admit(context, rule, ask_for)
            return await call(request, context)
        with streams.running(rule, functools.partial(ask_for, context)) as running:
            try:
                await _admit(context, rule, ask_for, running)
                answer = await call(request, context)
            except asyncio.CancelledError:
                await _end_if_off(running, context)
                raise
            await _end_if_off(running, context)
            return answer

    return guarded


def _generator(
    call: Callable[..., Any], rule: Rule, ask_for: Ask, streams: RunningStreams | None
) -> Callable[..., Any]:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        if streams is None:
            await _admit(context, rule, ask_for)
            async with aclosing(call(request, context)) as messages:
                async for message in messages:
                    yield message
            return
        with streams.running(rule, functools.partial(ask_for, context)) as running:
            try:
                await _admit(context, rule, ask_for, running)
                async with aclosing(call(request, context)) as messages:
                    async for message in messages:
                        with running.sending():
                            yield message
                        await _end_if_off(running, context)
            except asyncio.CancelledError:
                await _end_if_off(running, context)
                raise
            await _end_if_off(running, context)

    return guarded


def _in_thread(handler: Handler, rule: Rule, ask_for: Ask, streams: RunningStreams | None) -> Callable[..., Any]:
    """Guard a handler that the server runs in a thread; it checks on the event loop, also before each message."""
    loop = asyncio.get_running_loop()

    def check(context: Any) -> Refusal | None:
        async def asked() -> Refusal | None:
            return await ask_for(context, rule, 0)

        return asyncio.run_coroutine_threadsafe(asked(), loop).result()

    return sync.guarded(handler, check, end_streams=streams is not None)


async def _admit(context: Any, rule: Rule, ask_for: Ask, running: RunningStream | None = None) -> None:
    refusal = await ask_for(context, rule, 0)
    if refusal is None:
        return
    if running is not None:
        running.mark_ended()
    await abort(context, refusal)


async def _end_if_off(running: RunningStream, context: Any) -> None:
    """Abort the call if the flag went off."""
    refusal = running.take_refusal()
    if refusal is not None:
        await abort(context, refusal)
