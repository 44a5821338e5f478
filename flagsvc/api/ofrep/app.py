"""OFREP's calls as an ASGI application: unpack, ask the reader once, pack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlencode

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from flagsvc.api.common.admission import Admission
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.selectors import HEADER, Selector, selector_of
from flagsvc.api.ofrep.middleware import StreamCall, UnaryCall, json_response
from flagsvc.api.ofrep.requests import Refused, context_of, has_already, header_pairs, min_revision
from flagsvc.api.ofrep.responses import answer, bulk, encoded, status_of, unknown
from flagsvc.api.ofrep.streams import Streams, config_etag
from flagsvc.core import validation
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.model import FlagId, JsonValue
from flagsvc.serving.reader import Reader
from flagsvc.telemetry import Metrics
from flagsvc.view.near_cache import NearCache

FLAGS = "/ofrep/v1/evaluate/flags"
EVENTS = "/ofrep/v1/sse"
SELECTOR = "selector"
"""Browsers' event streams have no headers: their selector is in the query."""
INACTIVITY_S = 120
"""How long a client in the background keeps its event stream."""
PREFLIGHT_AGE_S = 600


class Ofrep:
    """OFREP over one reader; `app` serves it, `close` ends its event streams."""

    def __init__(
        self,
        reader: Reader,
        near: NearCache,
        contexts: Contexts,
        admission: Admission,
        metrics: Metrics,
        *,
        age_s: float,
        origins: Sequence[str] = (),
    ) -> None:
        """`age_s`: how long an event stream lasts; `origins`: whose pages may call, `*` for all."""
        self._reader, self._near, self._contexts, self._metrics = reader, near, contexts, metrics
        self.streams = Streams(near, age_s)
        one = UnaryCall("ofrep/Evaluate", self._evaluate, admission, metrics)
        whole = UnaryCall("ofrep/EvaluateAll", self._evaluate_all, admission, metrics)
        routes = [
            Route(FLAGS, whole, methods=["POST"]),
            Route(f"{FLAGS}/", whole, methods=["POST"]),
            Route(f"{FLAGS}/{{key:path}}", one, methods=["POST"]),
            Route(EVENTS, StreamCall("ofrep/Events", self._events, admission, metrics), methods=["GET"]),
        ]
        self.app: ASGIApp = Router(routes, redirect_slashes=False, default=_not_found)
        if origins:
            self.app = CORSMiddleware(
                self.app,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["ETag", "Retry-After"],
                max_age=PREFLIGHT_AGE_S,
            )

    async def _evaluate(self, request: Request) -> Response:
        """Evaluate one flag."""
        key, headers = request.path_params["key"], header_pairs(request)
        selector = selector_of(headers)
        context = self._contexts.of_json(await context_of(request, key), headers)
        flag_id, least = _flag_id(selector, key), min_revision(request, headers)
        evaluation = await self._reader.evaluate(flag_id, context, min_revision=least)
        self._metrics.evaluated(evaluation)
        return json_response(status_of(evaluation), answer(evaluation, selector.metadata))

    async def _evaluate_all(self, request: Request) -> Response:
        """Evaluate a whole set: one context, one pass. The ETag is of the answer, so it covers all that shaped it."""
        headers = header_pairs(request)
        selector = selector_of(headers)
        context = self._contexts.of_json(await context_of(request), headers)
        least, current = min_revision(request, headers), config_etag(self._near, selector.flag_set)
        evaluations = await self._reader.evaluate_all(selector.flag_set, (), context, least)
        for evaluation in evaluations:
            self._metrics.evaluated(evaluation)
        body = encoded(bulk(evaluations, selector.metadata, [_stream_of(selector)]))
        etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if has_already(request, etag, current):
            return Response(status_code=304, headers={"etag": etag})
        return Response(body, 200, {"etag": etag}, "application/json")

    async def _events(self, request: Request, send: Send) -> None:
        """Tell of changes of a set."""
        headers = [(HEADER, request.query_params.get(SELECTOR, "")), *header_pairs(request)]
        flag_set = selector_of(headers).flag_set
        await self.streams.serve(flag_set, request.headers.get("last-event-id", ""), request.receive, send)


def _flag_id(selector: Selector, key: str) -> FlagId:
    try:
        return validation.flag_id(selector.flag_set, key)
    except InvalidRequest:  # no flag can have that name
        raise Refused(404, unknown(key)) from None


def _stream_of(selector: Selector) -> JsonValue:
    """Say where the changes of a set are told, at the origin that the caller asked."""
    query = [(SELECTOR, f"{name}={value}") for name, value in selector.metadata.items()]
    uri = f"{EVENTS}?{urlencode(query)}" if query else EVENTS
    return {"type": "sse", "endpoint": {"requestUri": uri}, "inactivityDelaySec": INACTIVITY_S}


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    told = {"errorDetails": f"nothing is served here; try POST {FLAGS}"}
    await json_response(404, told)(scope, receive, send)
