"""What surrounds every call of OFREP, as rpc.interceptors is around gRPC's: admission, error map and measure."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.interceptors import told
from flagsvc.api.ofrep.requests import Disconnected, Refused
from flagsvc.api.ofrep.responses import encoded, failure
from flagsvc.core.errors import InvalidRequest, Stopping
from flagsvc.core.model import JsonValue
from flagsvc.telemetry import Metrics

STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""HTTP's status for gRPC's of the same error; 500 for all others."""
LATER = {429, 503}
"""Statuses of requests that are safe to repeat a moment later."""


class UnaryCall:
    """An ASGI application that answers each request once."""

    def __init__(
        self, name: str, call: Callable[[Request], Awaitable[Response]], admission: Admission, metrics: Metrics
    ) -> None:
        self._name, self._call, self._admission, self._metrics = name, call, admission, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a caller that went away before its request was read gets nothing."""
        started, request, code = time.perf_counter(), Request(scope, receive), "DISCONNECTED"
        try:
            try:
                self._admission.enter(False)
                try:
                    response = await self._call(request)
                finally:
                    self._admission.leave(False)
            except Disconnected:
                return
            except Exception as error:  # noqa: BLE001  the map decides what may be told
                response = failed(self._name, request, error)
            code = str(response.status_code)
            await response(scope, receive, send)
        finally:
            self._metrics.called(self._name, code, time.perf_counter() - started)


class StreamCall:
    """An ASGI application whose answers are streams, which `call` sends itself."""

    def __init__(
        self, name: str, call: Callable[[Request, Send], Awaitable[None]], admission: Admission, metrics: Metrics
    ) -> None:
        self._name, self._call, self._admission, self._metrics = name, call, admission, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stream, or with an error before there is one."""
        started, request = time.perf_counter(), Request(scope, receive)
        try:
            self._admission.enter(True)
            try:
                await self._call(request, send)
            finally:
                self._admission.leave(True)
        except Exception as error:  # noqa: BLE001  as above
            await failed(self._name, request, error)(scope, receive, send)
        finally:
            self._metrics.called(self._name, "STREAM", time.perf_counter() - started)


def json_response(status: int, value: JsonValue, *, close: bool = False) -> Response:
    """Give an answer of JSON; `close`: the connection ends with it."""
    headers = {"retry-after": "1"} if status in LATER else {}
    return Response(encoded(value), status, headers | ({"connection": "close"} if close else {}), "application/json")


def failed(name: str, request: Request, error: Exception) -> Response:
    """Give the answer for an error; nothing internal passes."""
    if isinstance(error, Refused):
        return json_response(error.status, error.told, close=error.close)
    if isinstance(error, InvalidRequest):
        return json_response(400, failure("GENERAL", str(error), request.path_params.get("key")))
    known = told(name, error)
    return json_response(
        STATUSES.get(known.code, 500), {"errorDetails": known.message}, close=isinstance(error, Stopping)
    )
