"""What surrounds every OFREP call: admission, error mapping and metrics, as `CallInterceptor` does for gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from flagsvc.api.common.admission import Pool, StreamPool
from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.failures import failure_for
from flagsvc.api.common.gate import Check, prove
from flagsvc.api.common.outflow import UNCOUNTED_BYTES, Outflow
from flagsvc.api.common.peers import network_of, peer_name
from flagsvc.api.common.selectors import InvalidSelector
from flagsvc.api.http.bodies import Bodies, BodyRefused, Disconnected
from flagsvc.api.http.taking import until_taken
from flagsvc.api.ofrep.requests import MAX_BODY_BYTES, Refused, metadata_of, ticket_of
from flagsvc.api.ofrep.responses import encode, error_body
from flagsvc.core.errors import AnswerTooLarge, InvalidRequest, Overloaded, Stopping
from flagsvc.core.model import JsonValue
from flagsvc.telemetry import Metrics

STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""HTTP status for each gRPC status of an error; 500 for all others."""
WORK_S = 30.0
"""Seconds that the evaluation of a whole set may take."""
UNKNOWN = 401
"""HTTP status of a request without a valid credential."""
RETRYABLE = {429, 503}
"""HTTP statuses of requests that are safe to repeat after a second."""


class UnaryCall:
    """An ASGI application whose handler returns one response."""

    def __init__(
        self,
        name: str,
        call: Callable[[Request, bytes], Coroutine[Any, Any, Response]],
        pool: Pool,
        bodies: Bodies,
        metrics: Metrics,
        *,
        outflow: Outflow,
        check: Check | None,
        is_long: bool = False,
    ) -> None:
        """`check`: None if callers are not authenticated.

        `is_long`: the work takes turns, so it ends when the client has left, and after WORK_S.
        """
        self._check = check
        self._name, self._call, self._pool, self._bodies, self._metrics = name, call, pool, bodies, metrics
        self._outflow, self._is_long = outflow, is_long

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a client that disconnected before its request was read gets no response."""
        started, code = time.perf_counter(), "DISCONNECTED"
        try:
            request = Request(scope, receive)
            response = await self._response(request)
            peer, size = str(request.client), len(response.body)
            if size > UNCOUNTED_BYTES:
                try:
                    self._outflow.take(peer, size)
                except Overloaded as error:
                    response, size = failed(self._name, request, error), 0
            code = str(response.status_code)
            if size <= UNCOUNTED_BYTES:
                await response(scope, receive, send)
                return
            try:
                await response(scope, receive, until_taken(send))
            finally:
                self._outflow.release(peer, size)
        except Disconnected:
            return
        finally:
            self._metrics.calls.of(self._name).ended(code, time.perf_counter() - started)

    async def _response(self, request: Request) -> Response:
        try:
            # Before the body is read, whose size and pace are the client's, and again once it is there.
            metadata = metadata_of(request) if self._check is not None else []
            caller = await self._check.verified(metadata, _peer(request)) if self._check is not None else None
            if self._check is not None and caller is not None:
                self._check.permit(caller, None, metadata)
                prove(caller)
            # Before a slot is taken: a body comes as slowly as its client likes.
            body = await self._bodies.read(request.receive, MAX_BODY_BYTES, request.headers.get("content-encoding", ""))
            if self._check is not None and caller is not None:
                self._check.permit(caller, None, metadata)
                CALLER.set(caller)
            with self._pool:
                if self._is_long:
                    return await _while_connected(request.receive, self._call(request, body))
                return await self._call(request, body)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001  failure_for decides what the caller sees
            return failed(self._name, request, error)


async def _while_connected(receive: Receive, call: Coroutine[Any, Any, Response]) -> Response:
    """Return a handler's response. Raises Disconnected once the client has left, and Refused after WORK_S."""
    work, leaving = asyncio.create_task(call), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({work, leaving}, timeout=WORK_S, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if leaving.done():
            raise Disconnected
        raise Refused(503, {"errorDetails": f"the evaluation took longer than {WORK_S:g} s; retry later"})
    finally:
        work.cancel()
        leaving.cancel()
        await asyncio.wait({work, leaving})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamCall:
    """An ASGI application whose handler sends its response, a stream, itself."""

    def __init__(
        self,
        name: str,
        call: Callable[[Request, Send], Awaitable[None]],
        pool: StreamPool,
        metrics: Metrics,
        *,
        check: Check | None,
    ) -> None:
        self._name, self._call, self._pool, self._metrics = name, call, pool, metrics
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request with a stream, or with an error if the stream cannot start."""
        started, request, has_begun = time.perf_counter(), Request(scope, receive), False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            with self._pool.of(network_of(_peer(request))):
                await self._checked(request, sending)
        except Exception as error:  # noqa: BLE001  as above
            if has_begun:  # its caller was revoked
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await failed(self._name, request, error)(scope, receive, send)
        finally:
            self._metrics.calls.of(self._name).ended("STREAM", time.perf_counter() - started)

    async def _checked(self, request: Request, send: Send) -> None:
        """Serve the stream for as long as its caller may have it."""
        if self._check is None:
            await self._call(request, send)
            return
        metadata, ticket = metadata_of(request), ticket_of(request)
        if ticket is not None:
            caller = self._check.holder_of(ticket, metadata)
        else:
            caller = await self._check.verified(metadata, _peer(request))
        with self._check.open(caller) as session:
            self._check.narrow(session, None, metadata)
            await self._call(request, send)


def _peer(request: Request) -> str:
    return peer_name(tuple(request.client) if request.client else None)


def json_response(status: int, value: JsonValue, *, close: bool = False, retry_after_s: int = 0) -> Response:
    """Return a JSON response; with `close` the connection ends after it."""
    headers = {"retry-after": str(retry_after_s or 1)} if status in RETRYABLE else {}
    if status == UNKNOWN:
        headers["www-authenticate"] = "Bearer"
    return Response(encode(value), status, headers | ({"connection": "close"} if close else {}), "application/json")


def failed(name: str, request: Request, error: Exception) -> Response:
    """Return the response for an error, without internal texts."""
    if isinstance(error, Refused):
        return json_response(error.status, error.body, close=error.close)
    if isinstance(error, BodyRefused):
        return json_response(error.status, {"errorDetails": error.details}, close=error.close)
    if isinstance(error, InvalidRequest):
        details = f"invalid selector: {error}" if isinstance(error, InvalidSelector) else str(error)
        return json_response(400, error_body("GENERAL", details, request.path_params.get("key")))
    failure = failure_for(name, error)
    if isinstance(error, AnswerTooLarge):
        return json_response(500, {"errorDetails": failure.message})  # 429 would make clients repeat the request
    status, body = STATUSES.get(failure.code, 500), {"errorDetails": failure.message}
    return json_response(status, body, close=isinstance(error, Stopping), retry_after_s=failure.retry_after_s)
