"""OFREP as an ASGI application. Each handler unpacks, calls the reader once and packs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from flagsvc.access.authority import Authority
from flagsvc.api.common.admission import Admission
from flagsvc.api.common.answers import MAX_SET_BYTES, SPLIT_SET, AnswerSize
from flagsvc.api.common.bulk import Bulk, BulkCall, Packing, asked
from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.gate import Check, check_of
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.outflow import Outflow
from flagsvc.api.common.permissions import ROUTES
from flagsvc.api.common.replies import Reply
from flagsvc.api.common.selectors import Selector
from flagsvc.api.http.bodies import Bodies
from flagsvc.api.ofrep.middleware import StreamCall, UnaryCall, json_response
from flagsvc.api.ofrep.requests import (
    SELECTOR,
    TICKET,
    Refused,
    context_of,
    event_id_of,
    has_current,
    header_pairs,
    metadata_of,
    min_revision_of,
)
from flagsvc.api.ofrep.responses import bulk_body, encode, evaluation_body, not_found_body, status_of
from flagsvc.api.ofrep.sse_streams import SseStreams, config_etag
from flagsvc.core import validation
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.model import FlagId, JsonValue
from flagsvc.serving.reader import Evaluation, Reader
from flagsvc.telemetry import Metrics
from flagsvc.turns import off_loop
from flagsvc.view.near_cache import NearCache

FLAGS = "/ofrep/v1/evaluate/flags"
EVENTS = "/ofrep/v1/sse"
MAX_INLINE_HASHED = 65_536
"""Size of an answer that is hashed on the event loop, which takes 0.1 ms."""
INACTIVITY_S = 120
"""Seconds that a client in the background keeps its event stream open."""
PREFLIGHT_AGE_S = 600
"""Seconds that a browser may cache the answer to a preflight request."""


Handler = Callable[..., Any]
Limited = Callable[[Handler, str], Handler]
"""Returns a handler that is refused to callers over their rate; the text names the kind of work."""


def unlimited(handler: Handler, _kind: str) -> Handler:
    """Return the handler as it is."""
    return handler


class Ofrep:
    """OFREP over one reader: `app` is the ASGI application, `streams` are its event streams."""

    def __init__(
        self,
        reader: Reader,
        near: NearCache,
        contexts: Contexts,
        admission: Admission,
        metrics: Metrics,
        *,
        bulk: Bulk,
        listener: Listener,
        outflow: Outflow,
        authority: Authority | None = None,
        age_s: float,
        origins: Sequence[str] = (),
        limited: Limited = unlimited,
    ) -> None:
        """`authority`: who recognizes callers; None if they are not authenticated. `limited`: wraps handlers.

        `age_s`: seconds after which an event stream ends; `origins`: origins allowed by CORS, `*` for all.
        """
        self._reader, self._near, self._contexts, self._metrics, self._bulk = reader, near, contexts, metrics, bulk
        self._selectors = listener.selectors
        self._tickets = authority.tickets if authority is not None else None
        self.streams = SseStreams(near, age_s)
        pool, self.bodies = admission.ofrep, Bodies()

        def check(route: str) -> Check | None:
            return check_of(ROUTES.get(route), authority, listener)

        def whole(path: str) -> Route:
            call = UnaryCall(
                "ofrep/EvaluateAll",
                limited(self._evaluate_all, "EvaluateAll"),
                pool,
                self.bodies,
                metrics,
                outflow=outflow,
                check=check(f"POST {path}"),
                is_long=True,
            )
            return Route(path, call, methods=["POST"])

        path = f"{FLAGS}/{{key:path}}"
        one = UnaryCall(
            "ofrep/Evaluate",
            limited(self._evaluate, "Evaluate"),
            pool,
            self.bodies,
            metrics,
            outflow=outflow,
            check=check(f"POST {path}"),
        )
        stream_pool = admission.streams("ofrep/Events")
        events = StreamCall(
            "ofrep/Events", limited(self._events, "Events"), stream_pool, metrics, check=check(f"GET {EVENTS}")
        )
        routes = [
            whole(FLAGS),
            whole(f"{FLAGS}/"),
            Route(path, one, methods=["POST"]),
            Route(EVENTS, events, methods=["GET"]),
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

    async def _evaluate(self, request: Request, body: bytes) -> Response:
        """Evaluate one flag."""
        key, headers = request.path_params["key"], header_pairs(request)
        selector = self._selectors.of(headers)
        context = self._contexts.of_json(await context_of(body, key), headers)
        flag_id, min_revision = _flag_id(selector, key), min_revision_of(request, headers)
        is_public = CALLER.get().is_of_the_public
        if is_public and not await self._reader.may_be_public(flag_id, min_revision):
            return json_response(404, not_found_body(key, selector.metadata))  # whether there is such a flag or not
        evaluation = await self._reader.evaluate(flag_id, context, min_revision=min_revision)
        self._metrics.evaluated(evaluation)
        return json_response(
            status_of(evaluation), evaluation_body(evaluation, selector.metadata, for_public=is_public)
        )

    async def _evaluate_all(self, request: Request, body: bytes) -> Response:
        """Evaluate a whole set for one context.

        The ETag is a hash of the response's body, with the ticket in it: who gets 304 has one that is valid still.
        """
        headers = header_pairs(request)
        selector = self._selectors.of(headers)
        min_revision, current = min_revision_of(request, headers), config_etag(self._near, selector.flag_set)
        question = asked("OFREP", selector.flag_set, selector.text, body, self._contexts.added(lambda: headers))

        async def evaluate() -> AsyncIterator[Evaluation]:
            context = self._contexts.of_json(await context_of(body), headers)
            only_public = question.only_public
            return self._reader.evaluate_set(selector.flag_set, context, min_revision, only_public=only_public)

        def packed(evaluation: Evaluation) -> Reply:
            body = evaluation_body(evaluation, selector.metadata, for_public=question.only_public)
            return (encode(body),)

        packing = Packing(("OFREP", selector.text, question.only_public), packed, separator=b",")
        call = BulkCall(question, evaluate, packing, AnswerSize(SPLIT_SET, MAX_SET_BYTES), min_revision)
        bodies = await self._bulk.parts(call)
        is_short = sum(map(len, bodies)) <= MAX_INLINE_HASHED
        answered = partial(_answer_and_etag, bodies, selector.metadata, self._event_streams_of(selector))
        answer, etag = answered() if is_short else await off_loop(answered)
        if has_current(request, etag, current):
            return Response(status_code=304, headers={"etag": etag})
        return Response(answer, 200, {"etag": etag}, "application/json")

    async def _events(self, request: Request, send: Send) -> None:
        """Stream the changes of a set."""
        flag_set = self._selectors.of(metadata_of(request)).flag_set
        caller, has_ticket = CALLER.get(), TICKET in request.query_params
        await self.streams.serve(
            flag_set,
            event_id_of(request).position,
            request.receive,
            send,
            only_public=caller.is_of_the_public,
            renewed=partial(self._ticket_of, caller, flag_set) if has_ticket else None,
        )

    def _event_streams_of(self, selector: Selector) -> list[JsonValue]:
        """Return the description of the set's event stream; its URI is relative to the origin of the request.

        Without authentication, or a credential, everybody may open it, else only with the ticket in it.
        """
        query = [(SELECTOR, f"{name}={value}") for name, value in selector.metadata.items()]
        caller = CALLER.get()
        if self._tickets is not None and caller.kind is not Kind.ANONYMOUS:
            if not self._tickets.can_issue:
                return []
            query.append((TICKET, self._tickets.issue(caller, selector.flag_set)))
        uri = f"{EVENTS}?{urlencode(query)}" if query else EVENTS
        return [{"type": "sse", "endpoint": {"requestUri": uri}, "inactivityDelaySec": INACTIVITY_S}]

    def _ticket_of(self, caller: Identity, flag_set: str) -> str:
        """Return the ticket with which a client can open its stream again; empty if there is none."""
        return self._tickets.issue(caller, flag_set) if self._tickets is not None and self._tickets.can_issue else ""


def _flag_id(selector: Selector, key: str) -> FlagId:
    try:
        return validation.flag_id(selector.flag_set, key)
    except InvalidRequest:  # no flag can have that key
        raise Refused(404, not_found_body(key, selector.metadata)) from None


def _answer_and_etag(
    bodies: Sequence[bytes], selected: Mapping[str, str], event_streams: list[JsonValue]
) -> tuple[bytes, str]:
    answer = bulk_body(bodies, selected, event_streams)
    return answer, f'"{hashlib.blake2b(answer, digest_size=16).hexdigest()}"'


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    body = {"errorDetails": f"unknown path or method; try POST {FLAGS}"}
    await json_response(404, body)(scope, receive, send)
