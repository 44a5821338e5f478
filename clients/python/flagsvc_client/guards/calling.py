"""Client interceptors that refuse a call before it is sent, as a guarded server would refuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import grpc

from flagsvc_client import aio as aio_client
from flagsvc_client import sync as sync_client
from flagsvc_client.guards import aio, sync
from flagsvc_client.guards.rules import ContextOf, Refusal, Rule, Rules, by_name, check_client, context_of_metadata


class CallRefused(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # no generics at run time
    """A call that was not sent: code, message and trailers are those of the refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self._refusal = refusal

    def code(self) -> grpc.StatusCode:
        """PERMISSION_DENIED, or UNAVAILABLE if the flag could not be evaluated."""
        return self._refusal.code

    def details(self) -> str:
        """The message."""
        return self._refusal.message

    def trailing_metadata(self) -> Any:
        """The trailers, with the ErrorInfo."""
        return self._refusal.trailers()

    def initial_metadata(self) -> tuple[()]:
        """Empty: no server responded."""
        return ()

    def result(self, timeout: float | None = None) -> NoReturn:  # noqa: ARG002  grpc.Future's
        """Raise itself."""
        raise self

    def exception(self, timeout: float | None = None) -> CallRefused:  # noqa: ARG002  as above
        """Return itself."""
        return self

    def traceback(self, timeout: float | None = None) -> Any:  # noqa: ARG002  as above
        """Return where it was raised, if it was."""
        return self.__traceback__

    def done(self) -> bool:
        """Return True."""
        return True

    def running(self) -> bool:
        """Return False."""
        return False

    def is_active(self) -> bool:
        """Return False."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def cancel(self) -> bool:
        """Return False: it has ended."""
        return False

    def time_remaining(self) -> float:
        """Return 0: it has ended."""
        return 0.0

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002  grpc.Call's
        """Return False: it has ended, the callback will not be called."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call the function at once."""
        fn(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> NoReturn:
        raise self


class CallGuard(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For `grpc.intercept_channel`: a call fails at once if the flag of its method is off.

    The arguments are those of `flagsvc_client.guards.sync.FlagGuard`; `context_of` receives the metadata to be sent.
    """

    def __init__(
        self,
        client: sync_client.FlagClient,
        rules: Mapping[str, str | Rule | None],
        *,
        context_of: ContextOf = context_of_metadata,
    ) -> None:
        check_client(client, asynchronous=False)
        self._client = client
        self._rules = Rules(rules)
        self._context_of = context_of

    def _intercept(self, continuation: Callable[..., Any], call: Any, request: Any) -> Any:
        rule = self._rules.of(call.method)
        if rule is None:
            return continuation(call, request)
        refusal = sync.ask(self._client, rule, lambda: self._context_of(by_name(call.metadata), call.method))
        return continuation(call, request) if refusal is None else CallRefused(refusal)

    intercept_unary_unary = _intercept  # type: ignore[assignment]  # one for all kinds
    intercept_unary_stream = _intercept  # type: ignore[assignment]  # one for all kinds
    intercept_stream_unary = _intercept  # type: ignore[assignment]  # one for all kinds
    intercept_stream_stream = _intercept  # type: ignore[assignment]  # one for all kinds


def call_guards(
    client: aio_client.AsyncFlagClient,
    rules: Mapping[str, str | Rule | None],
    *,
    context_of: ContextOf = context_of_metadata,
) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors for a grpc.aio channel, which needs one for each kind of call.

    The arguments are those of `flagsvc_client.guards.aio.FlagGuard`; `context_of` receives the metadata to be sent.
    """
    check_client(client, asynchronous=True)
    table = Rules(rules)

    async def intercept(_: Any, continuation: Callable[..., Any], call: Any, request: Any) -> Any:
        method = call.method.decode() if isinstance(call.method, bytes) else call.method
        rule = table.of(method)
        if rule is not None:
            refusal = await aio.ask(client, rule, lambda: context_of(by_name(call.metadata), method))
            if refusal is not None:
                trailers = grpc.aio.Metadata(*refusal.trailers())
                raise grpc.aio.AioRpcError(refusal.code, grpc.aio.Metadata(), trailers, refusal.message)
        return await continuation(call, request)

    return [
        type("CallGuard", (kind,), {f"intercept_{name}": intercept})()
        for name, kind in (
            ("unary_unary", grpc.aio.UnaryUnaryClientInterceptor),
            ("unary_stream", grpc.aio.UnaryStreamClientInterceptor),
            ("stream_unary", grpc.aio.StreamUnaryClientInterceptor),
            ("stream_stream", grpc.aio.StreamStreamClientInterceptor),
        )
    ]
