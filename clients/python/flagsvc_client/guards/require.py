"""`require_feature`: a guard for one gRPC handler, or for any function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Literal, TypeVar, cast

from flagsvc_client.details import Context
from flagsvc_client.guards import aio, sync
from flagsvc_client.guards.rules import Rule, by_name, check_client, context_of_metadata

F = TypeVar("F", bound=Callable[..., Any])


def require_feature(
    flag: str,
    *,
    client: Any,
    context: Callable[..., Context] | None = None,
    on_trouble: Literal["close", "open"] = "close",
) -> Callable[[F], F]:
    """Let a function run only while the flag is on.

    A gRPC handler, recognised by the ServicerContext among its arguments, ends its call with the refusal. Any other
    function raises FeatureDisabled, or FeatureCheckFailed if the flag cannot be evaluated. A generator is checked when
    its first value is requested.

    `client`: a FlagClient, or a function that returns one at the time of the call. An `async def` needs the asyncio
    client and any other function the synchronous one; otherwise TypeError. `context`: returns the evaluation context
    from the function's arguments; by default from a handler's headers, otherwise there is none.
    """
    rule = Rule(flag, on_trouble)

    def decorate(function: F) -> F:
        check = _Check(rule, client, context)
        return cast("F", functools.wraps(function)(_guarded(function, check)))

    return decorate


def _guarded(function: Callable[..., Any], check: _Check) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            await check.admit(args, kwargs)
            async with aclosing(function(*args, **kwargs)) as values:
                async for value in values:
                    yield value

        return async_generator
    if inspect.iscoroutinefunction(function):

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            await check.admit(args, kwargs)
            return await function(*args, **kwargs)

        return coroutine
    if inspect.isgeneratorfunction(function):

        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            check.admit_sync(args, kwargs)
            yield from function(*args, **kwargs)

        return generator

    def plain(*args: Any, **kwargs: Any) -> Any:
        check.admit_sync(args, kwargs)
        return function(*args, **kwargs)

    return plain


class _Check:
    """The check before a function runs."""

    def __init__(self, rule: Rule, client: Any, context: Callable[..., Context] | None) -> None:
        self._rule, self._client, self._context = rule, client, context

    async def admit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        servicer_context = _servicer_context(args, kwargs)
        context_of = functools.partial(self._context_of, servicer_context, args, kwargs)
        refusal = await aio.ask(self._client_of(asynchronous=True), self._rule, context_of)
        if refusal is None:
            return
        if servicer_context is None:
            raise refusal.error()
        await aio.abort(servicer_context, refusal)

    def admit_sync(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        servicer_context = _servicer_context(args, kwargs)
        context_of = functools.partial(self._context_of, servicer_context, args, kwargs)
        refusal = sync.ask(self._client_of(asynchronous=False), self._rule, context_of)
        if refusal is None:
            return
        if servicer_context is None:
            raise refusal.error()
        sync.abort(servicer_context, refusal)

    def _client_of(self, *, asynchronous: bool) -> Any:
        client = self._client if hasattr(self._client, "details") else self._client()
        check_client(client, asynchronous=asynchronous)
        return client

    def _context_of(self, servicer_context: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context:
        if self._context is not None:
            return self._context(*args, **kwargs)
        if servicer_context is None:
            return None
        return context_of_metadata(by_name(servicer_context.invocation_metadata()), "")


def _servicer_context(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Find the ServicerContext by its methods: those of asyncio and synchronous servers have no common base class."""
    for argument in (*args, *kwargs.values()):
        if hasattr(argument, "invocation_metadata") and hasattr(argument, "abort"):
            return argument
    return None
