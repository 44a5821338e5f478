"""Connect and gRPC-Web as an ASGI application."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import grpc
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flagsvc.api.common.handlers import Handlers
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.connect.call import Call
from flagsvc.api.connect.json_messages import dumped
from flagsvc.api.connect.methods import methods_of
from flagsvc.api.connect.statuses import DETAILS, Status
from flagsvc.api.connect.wires import WIRES
from flagsvc.api.http.bodies import Bodies

PREFLIGHT_AGE_S = 600
"""Seconds that a browser may cache the answer to a preflight request."""
EXPOSED = ("grpc-status", "grpc-message", "retry-after", DETAILS)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::\d*)?")


class Connect:
    """Serves the unary and streaming methods of some services, over HTTP/1.1 only, with POST only."""

    def __init__(self, files: Iterable[Any], handlers: Handlers, outflow: Outflow) -> None:
        """`files`: descriptors of the files with the services; their handlers are registered at `handlers`."""
        self.methods, self.bodies = methods_of(files), Bodies()
        self._handlers, self._outflow = handlers, outflow

    def app(self, origins: Sequence[str]) -> ASGIApp:
        """Return the application for callers of any name. `origins`: origins allowed by CORS, `*` for all."""
        return _with_cors(self, origins)

    def guarded_app(self, origins: Sequence[str], host_names: Collection[str]) -> ASGIApp:
        """Return the application for services that change things, which no web page may reach unless it is listed.

        A page could otherwise call a server on its reader's own machine or network, from a foreign origin or, with a
        name that it rebinds to that address, from its own. `*` in `origins` allows no origin here.
        """
        named = [origin for origin in origins if origin != "*"]
        return _Guard(_with_cors(self, named), named, host_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = self.methods.get(scope["path"])
        if method is None:
            await Response(status_code=404)(scope, receive, send)
        elif scope["method"] != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
        else:
            content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            wire = WIRES.get(content_type)
            if wire is None or not wire.serves(streams=method.streams):
                accepted = ", ".join(name for name, each in WIRES.items() if each.serves(streams=method.streams))
                await Response(status_code=415, headers={"accept-post": accepted})(scope, receive, send)
            else:
                call = Call(method, wire, headers, handlers=self._handlers, bodies=self.bodies, outflow=self._outflow)
                await call(scope, receive, send)


class ByPath:
    """Passes each request to the first application that serves its path, and all others to the last."""

    def __init__(self, apps: Sequence[tuple[Collection[str], ASGIApp]], default: ASGIApp) -> None:
        self._apps = {path: app for paths, app in reversed(apps) for path in paths}
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._apps.get(scope["path"], self._default)(scope, receive, send)


class _Guard:
    """Refuses requests of web pages whose origin is not listed, and requests to a name that is not listed."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], host_names: Collection[str]) -> None:
        self._app, self._origins = app, frozenset(origins)
        self._names = frozenset(name.lower() for name in (*host_names, "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin")}
        host, origin = given.get(b"host", ""), given.get(b"origin")
        if not _is_own(host, self._names):
            cure = "it must be an IP address, localhost or a name in FLAGSVC_HTTP_HOST_NAMES"
            await _refusal(f"the Host header is {host[:80]!r}; {cure}")(scope, receive, send)
        elif origin is not None and origin not in self._origins:
            cure = "it must be listed in FLAGSVC_CORS_ORIGINS, where * does not count for this service"
            await _refusal(f"the Origin header is {origin[:80]!r}; {cure}")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_own(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is an IP address or one of the names, with or without a port."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None:
        return False
    bracketed, name = match.groups()
    try:
        ipaddress.ip_address(bracketed or name)
    except ValueError:
        return bracketed is None and name.removesuffix(".") in names
    return True


def _refusal(text: str) -> Response:
    status = Status(grpc.StatusCode.PERMISSION_DENIED, text)
    return Response(dumped(status.connect_error()), status.http_status, media_type="application/json")


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_AGE_S,
    )


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for a path that nothing serves."""
    await Response("unknown path; try POST /flagd.evaluation.v1.Service/ResolveBoolean\n", 404)(scope, receive, send)
