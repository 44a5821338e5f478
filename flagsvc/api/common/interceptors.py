"""What is around every gRPC call: admission, error mapping and metrics. Outermost, so nothing bypasses it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from flagsvc.access.authority import Authority
from flagsvc.access.sessions import Session
from flagsvc.api.common.admission import Admission, Pool
from flagsvc.api.common.failures import Failure, failure_for
from flagsvc.api.common.first_message import FirstMessages
from flagsvc.api.common.gate import Check, check_of
from flagsvc.api.common.handlers import Handler
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers, network_of
from flagsvc.api.common.permissions import METHODS
from flagsvc.api.common.request_limits import check_readable, parse_within_limits
from flagsvc.api.common.sending import Encode, Sender
from flagsvc.core.access.identity import UNCHECKED, Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import PermissionDenied, Unauthenticated
from flagsvc.telemetry import Metrics

_OWN = "/flagsvc.v1.FlagService/"
_WRITES = frozenset(
    {
        *(_OWN + f"{verb}Flag" for verb in ("Create", "Update", "Toggle", "Delete", "Rollback")),
        _OWN + "RollbackFlagSet",
        *(f"/flagsvc.v1.RolloutService/{verb}Rollout" for verb in ("Pause", "Resume", "Rollback")),
        *(f"/flagsvc.v1.SegmentService/{verb}Segment" for verb in ("Create", "Update", "Delete")),
    }
)
_ADMINISTRATION = frozenset(
    _OWN + name
    for name in (
        *("ListFlags", "ListFlagHistory", "ListFlagRevisions", "GetStatus", "VerifyCache", "Resync"),
        *("GetBucketing", "SetBucketing"),
    )
)
_ADMINISTRATIVE = tuple(f"/flagsvc.v1.{name}Service/" for name in ("Token", "Audit", "Schedule", "Segment"))
_ENDLESS = ("/grpc.health.v1.", "/grpc.reflection.")
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

Context = grpc.aio.ServicerContext[Any, Any]
Refuse = Callable[[str, Exception, str, Any], None]
"""Notes a refused call: its method, the error, its peer, and its request if that was read."""
Before = Callable[[Identity, Context], None]
"""Runs before a unary call's message is read, once its caller is known. Raises if the call is to be refused."""
BeforeOf = Callable[[str], Before | None]
"""Returns what runs before the calls of a method; None if nothing does."""
REFUSALS = (Unauthenticated, PermissionDenied)


class CallInterceptor:
    """Admits calls, checks their callers, maps their errors and measures them. A health check is never refused.

    Answers are encoded here rather than by gRPC, so that their size is known before they are sent.
    """

    def __init__(
        self,
        metrics: Metrics,
        admission: Admission,
        first_messages: FirstMessages,
        *,
        sender: Sender,
        peers: Peers,
        authority: Authority | None,
        listener: Listener,
        refuse: Refuse | None = None,
        before_of: BeforeOf = lambda _: None,
    ) -> None:
        """`authority`: who recognizes callers; None if they are not authenticated."""
        self._refuse, self._before_of = refuse, before_of
        self._authority, self._listener = authority, listener
        self._metrics, self._admission, self._peers = metrics, admission, peers
        self._first_messages, self._sender = first_messages, sender

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the wrapped handler of a method.

        Its request streams, whatever the method says: only so does gRPC call it before the message is there. A call
        can then be refused before its message is read, and ended if no message comes.
        """
        parse, encode = parse_within_limits(method, handler.request_deserializer), handler.response_serializer
        if method == HEALTH_CHECK and handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._check(method, handler.unary_unary), parse, encode)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(method, handler.unary_unary, encode), parse)
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream(method, handler.unary_stream, encode), parse)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._many(method, handler.stream_stream, encode), parse)
        raise NotImplementedError(method)

    def _unary(self, method: str, call: Callable[[Any, Any], Any], encode: Encode) -> Callable[..., Any]:
        pool, message, sender = self._pool(method), self._first_messages.of, self._sender
        ended = self._metrics.calls.of(label(method)).ended
        check, refuse, authority = self._check_of(method), self._refuse_of(method), self._authority
        before, sessions = self._before_of(method), authority.sessions if authority is not None else None

        async def intercepted(_: object, context: Context) -> Any:
            started, request, code = time.perf_counter(), None, "OK"
            try:
                pool.check()  # before the message is read and parsed, and so is the caller
                if check is None or authority is None or sessions is None:
                    if before is not None:
                        before(UNCHECKED, context)
                    request = await message(context)
                    with pool:
                        check_readable(request)
                        return sender.answer(method, await call(request, context), encode, context)
                metadata = context.invocation_metadata()  # once: gRPC builds the headers at each call of this
                caller = check.admit(metadata, context) or await self._verified(check, context)
                if before is not None:
                    before(caller, context)
                changes = sessions.changes
                request = await message(context)
                with pool:
                    check_readable(request)
                    if sessions.changes != changes or caller.expires_at <= time.time():
                        caller = authority.recheck(caller)  # its message was long in coming
                    answer = await check.answered(call, caller, request, context, metadata)
                    return sender.answer(method, answer, encode, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
                if refuse is not None and isinstance(error, REFUSALS):
                    refuse(method, error, self._peers.of(context), request)
                failure = failure_for(method, error)
                code = failure.code.name
                await _abort(context, method, failure)
            finally:
                ended(code, time.perf_counter() - started)

        return intercepted

    def _check(self, method: str, call: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """Wrap the health check: no pool and no metric, but a time for its message."""

        async def intercepted(_: object, context: Context) -> Any:
            try:
                request = await self._first_messages.of(context)
                check_readable(request)
                return await call(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                await _abort(context, method, failure_for(method, error))

        return intercepted

    def _stream(self, method: str, call: Callable[[Any, Any], Any], encode: Encode) -> Callable[..., Any]:
        check = self._check_of(method)

        async def once(_: object, context: Context, session: Session | None) -> AsyncIterator[Any]:
            if session is not None:
                session.is_cancellable = False
            request = await self._first_messages.of(context)
            check_readable(request)
            if check is not None and session is not None:
                session.is_cancellable = True
                check.narrow(session, request, context.invocation_metadata())
            async for message in call(request, context):
                yield message

        return self._both(method, once, encode, check)

    def _many(self, method: str, call: Callable[[Any, Any], Any], encode: Encode) -> Callable[..., Any]:
        async def readable(requests: Any) -> AsyncIterator[Any]:
            async for request in requests:
                check_readable(request)
                yield request

        def begun(requests: Any, context: Context, _session: Session | None) -> Any:
            return call(readable(requests), context)

        return self._both(method, begun, encode, self._check_of(method))

    def _both(
        self, method: str, call: Callable[[Any, Any, Session | None], Any], encode: Encode, check: Check | None
    ) -> Callable[..., Any]:
        """Wrap a method whose responses stream."""
        name, sender = label(method), self._sender
        ended = self._metrics.calls.of(name).ended
        # Nothing ends a stream of these before the transport does.
        pool, refuse = self._admission.streams(name, awaited=not method.startswith(_ENDLESS)), self._refuse_of(method)

        async def intercepted(requests: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                host = network_of(self._peers.of(context))
                with pool.of(host), await self._opened(check, context) as session:
                    messages = call(requests, context, session)
                    endable = messages if session is None else session.endable(messages)
                    async for message in sender.stream(method, endable, encode, context):
                        if session is not None:
                            session.check()  # it may have waited for room
                        yield message
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  as above
                if refuse is not None and isinstance(error, REFUSALS):
                    refuse(method, error, self._peers.of(context), None)
                await _abort(context, method, failure_for(method, error))
            finally:
                ended("STREAM", time.perf_counter() - started)

        return intercepted

    async def _opened(self, check: Check | None, context: Context) -> contextlib.AbstractContextManager[Session | None]:
        return contextlib.nullcontext() if check is None else check.open(await self._verified(check, context))

    async def _verified(self, check: Check, context: Context) -> Identity:
        """Return who calls; a credential that is not known yet is verified."""
        return await check.verified(context.invocation_metadata(), self._peers.of(context), context)

    def _check_of(self, method: str) -> Check | None:
        return check_of(METHODS.get(method), self._authority, self._listener)

    def _refuse_of(self, method: str) -> Refuse | None:
        """Return what notes refused calls of a method; None for those that only evaluate."""
        rule = METHODS.get(method)
        return None if rule is not None and rule.role in (None, Role.EVALUATE) else self._refuse

    def _pool(self, method: str) -> Pool:
        if method in _WRITES:
            return self._admission.writes
        is_administration = method in _ADMINISTRATION or method.startswith(_ADMINISTRATIVE)
        return self._admission.administration if is_administration else self._admission.evaluations


async def _abort(context: Context, method: str, failure: Failure) -> None:
    """End a call with a status. Raises AbortError, or CancelledError if the caller is gone."""
    if failure.sends_headers_first(method):
        with contextlib.suppress(Exception):  # a stream has sent them already, or the client is gone
            await context.send_initial_metadata(())
    try:
        await context.abort(failure.code, failure.message, failure.trailers())
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # which gRPC does not report as a fault of the handler


def label(method: str) -> str:
    """Return a method's name for metrics: `EvaluateFlag`, but `schema.v1.Service/ResolveAll` for other services."""
    return method.removeprefix(_OWN).removeprefix("/")
