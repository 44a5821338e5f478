"""Parts of OFREP's requests: contexts, consistency tokens and ETags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from starlette.requests import Request

from flagsvc.api.common import consistency_tokens
from flagsvc.api.common.contexts import LARGE_BYTES
from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES
from flagsvc.api.common.selectors import HEADER
from flagsvc.api.ofrep.responses import error_body
from flagsvc.core import json_values, validation
from flagsvc.core.errors import InvalidRequest, Unauthenticated
from flagsvc.core.json_values import NotJson, compact, strict_loads
from flagsvc.core.model import JsonValue
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES
from flagsvc.turns import Turns

MAX_BODY_BYTES = MAX_EVALUATION_BYTES
SELECTOR = "selector"
"""Query parameter with the selector of an event stream, because browsers cannot set headers on one."""
TICKET = "ticket"
"""Query parameter with the credential of an event stream, for the same reason."""
_LAST_EVENT_ID = "last-event-id"
CONFIG_ETAG = "flagConfigEtag"
CONFIG_LAST_MODIFIED = "flagConfigLastModified"
_INVALID_CONTEXT = "Provider context is not valid"
_REVISIONS = range(10**18)


class Refused(Exception):
    """A request that gets an error response before any evaluation; `close`: its connection ends after it."""

    def __init__(self, status: int, body: dict[str, JsonValue], *, close: bool = False) -> None:
        super().__init__(status)
        self.status, self.body, self.close = status, body, close


def header_pairs(request: Request) -> list[tuple[str, str]]:
    """Return the headers as a call's metadata: (lower-case name, value) pairs."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]


def metadata_of(request: Request) -> list[tuple[str, str]]:
    """Return the headers, before them the selector of an event stream, which has it in its query."""
    selector = request.query_params.get(SELECTOR, "") if request.method == "GET" else ""
    return [(HEADER, selector), *header_pairs(request)]


def ticket_of(request: Request) -> str | None:
    """Return the ticket of a request for an event stream; None if it has none in its query.

    Who reconnects has a newer one in the id of the last event than in the query. Raises Unauthenticated for several.
    """
    given = request.query_params.getlist(TICKET)
    if len(given) > 1:
        raise Unauthenticated("there is more than one ticket; send one")
    return (event_id_of(request).ticket or given[0]) if given else None


class EventId(NamedTuple):
    """The id of an event: what it covers, and in a stream that was opened with a ticket the next ticket."""

    position: str
    ticket: str = ""

    def __str__(self) -> str:
        """Return it as it is sent; `event_id_of` reads it."""
        return f"{self.position}~{self.ticket}" if self.ticket else self.position


def event_id_of(request: Request) -> EventId:
    """Return the id of the last event that the client has seen; an empty one if it has seen none."""
    position, _, ticket = request.headers.get(_LAST_EVENT_ID, "").partition("~")
    return EventId(position, ticket)


async def context_of(body: bytes, key: str | None = None) -> Mapping[str, JsonValue]:
    """Return the evaluation context in the body of a request for one flag or, without `key`, for all.

    As in flagd, an empty body is accepted. Raises Refused.
    """
    try:
        parsed = strict_loads(body.decode()) if body.strip() else None
    except (NotJson, UnicodeDecodeError) as error:
        cause = str(error) if isinstance(error, NotJson) else "not UTF-8"
        raise _invalid_context(f"{_INVALID_CONTEXT}: the body is not JSON: {cause}", key) from None
    context = _object("context", _object("the body", parsed, key).get("context"), key)
    if not context:
        return context
    if len(body) > LARGE_BYTES:
        await Turns().next()  # parsing took a turn
    if len(body) > MAX_CONTEXT_VALUES and json_values.has_more_values(context, MAX_CONTEXT_VALUES):
        details = f"The context has more than {MAX_CONTEXT_VALUES} fields and list elements"
        raise _invalid_context(details, key)
    if problem := json_values.problem(context):
        raise _invalid_context(f"{_INVALID_CONTEXT}: {problem}", key)
    if len(body) > MAX_CONTEXT_BYTES and len(compact(context).encode()) > MAX_CONTEXT_BYTES:
        raise _invalid_context(f"The context is over {MAX_CONTEXT_BYTES} bytes", key)
    if len(body) > LARGE_BYTES:
        await Turns().next()  # so did checking it
    return context


def min_revision_of(request: Request, headers: list[tuple[str, str]]) -> int:
    """Return the revision that the response must contain: that of the caller's consistency token or of an event.

    An event that makes a client refetch names a revision, which the client sends back. Raises InvalidRequest.
    """
    try:
        announced = validation.etag_revision(request.query_params.get(CONFIG_ETAG, "")) or 0
    except InvalidRequest:
        announced = 0  # another server's
    return max(consistency_tokens.min_revision_of(headers), announced if announced in _REVISIONS else 0)


def has_current(request: Request, etag: str, config_etag: str) -> bool:
    """Whether the client already has this response; never if an event announced another configuration to it."""
    query = request.query_params
    if query.get(CONFIG_ETAG, config_etag) != config_etag or CONFIG_LAST_MODIFIED in query:
        return False
    given = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return etag in given or "*" in given


def _object(name: str, value: JsonValue, key: str | None) -> dict[str, JsonValue]:
    """Return an object, an empty one for null. Raises Refused for anything else."""
    if value is not None and not isinstance(value, dict):
        wrong = f"{name} is of type {json_values.kind(value)}; it must be an object"
        raise _invalid_context(f"{_INVALID_CONTEXT}: {wrong}", key)
    return value or {}


def _invalid_context(details: str, key: str | None) -> Refused:
    return Refused(400, error_body("INVALID_CONTEXT", details, key))
