"""The guard for routes of FastAPI and Starlette. It needs Starlette, which FastAPI includes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flagsvc_client.aio import AsyncFlagClient
from flagsvc_client.context_scope import context_scope
from flagsvc_client.details import Context
from flagsvc_client.guards import aio
from flagsvc_client.guards.rules import DISABLED, Refusal, Rule, check_client


class FeatureRefused(HTTPException):
    """Status 403 if the flag is off, 503 if it could not be evaluated."""

    def __init__(self, refusal: Refusal) -> None:
        off = refusal.reason == DISABLED
        super().__init__(403 if off else 503, refusal.message, None if off else {"Retry-After": "1"})
        self.refusal = refusal


class RequireFeature:
    """Let a request pass only while the flag is on: `@app.get("/chat", dependencies=[Depends(RequireFeature(...))])`.

    In a Starlette endpoint: `await RequireFeature(...)(request)`. `context_of`: returns the evaluation context of a
    request; by default there is none. Raises FeatureRefused. After `app.add_exception_handler(FeatureRefused,
    feature_refused)` the response has detail, code, feature and status; otherwise only the detail.
    """

    def __init__(
        self,
        client: AsyncFlagClient,
        flag: str,
        *,
        context_of: Callable[[HTTPConnection], Context] | None = None,
        on_trouble: Literal["close", "open"] = "close",
    ) -> None:
        check_client(client, asynchronous=True)
        self._client = client
        self._rule = Rule(flag, on_trouble)
        self._context_of = context_of

    async def __call__(self, connection: HTTPConnection) -> None:
        """Raise FeatureRefused unless the request may pass."""
        context_of = self._context_of
        refusal = await aio.ask(self._client, self._rule, lambda: context_of(connection) if context_of else None)
        if refusal is not None:
            raise FeatureRefused(refusal)


class ContextMiddleware:
    """Make what `context_of` returns the context of all evaluations of a request: `app.add_middleware(...)`.

    See `context_scope`. The path operations, dependencies and guards need not hand it on.
    """

    def __init__(self, app: ASGIApp, *, context_of: Callable[[HTTPConnection], Context]) -> None:
        self._app, self._context_of = app, context_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or whatever else an ASGI server sends."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with context_scope(self._context_of(HTTPConnection(scope))):
            await self._app(scope, receive, send)


async def feature_refused(_: HTTPConnection, error: Exception) -> JSONResponse:
    """Return the response to a FeatureRefused with all its fields."""
    if not isinstance(error, FeatureRefused):
        raise error
    refusal = error.refusal
    body = {"detail": refusal.message, "code": refusal.reason, **refusal.metadata}
    return JSONResponse(body, error.status_code, error.headers)
