"""flagsvc.v1.AuditService. The handler unpacks, asks the store once and packs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from flagsvc.api.flag_service.paging import bad_page_token, from_page_token, page_size, to_page_token
from flagsvc.core import validation
from flagsvc.core.audit import AuditEntry, AuditQuery, Outcome, Place
from flagsvc.core.errors import AuditMissing, invalid
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import audit_service_pb2_grpc as pb_grpc
from flagsvc.ports.audit import AuditStore
from flagsvc.turns import in_turns

Context = grpc.aio.ServicerContext[Any, Any]
_MOMENTS = range(253_402_300_800_000)
"""Milliseconds since 1970 up to the year 9999."""
_FILTERS = ("actor", "action", "flag_set", "subject")
_OUTCOMES = {pb.AUDIT_OUTCOME_DONE: Outcome.DONE, pb.AUDIT_OUTCOME_REFUSED: Outcome.REFUSED}
_NUMBERS = {outcome: number for number, outcome in _OUTCOMES.items()}


class AuditService(pb_grpc.AuditServiceServicer):
    """Serves flagsvc.v1.AuditService. `store`: None if the store keeps no audit."""

    def __init__(self, store: AuditStore | None) -> None:
        self._store = store

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Context) -> Any:
        """List entries in pages, the newest first."""
        if self._store is None:
            raise AuditMissing
        size = page_size(request.page_size, default=100)
        filters = {name: validation.text(name, getattr(request, name)) for name in _FILTERS}
        since, until = _time(request, "since"), _time(request, "until")
        if request.outcome and request.outcome not in _OUTCOMES:
            raise invalid("outcome", request.outcome, f"one of {', '.join(_OUTCOMES.values())}")
        listing = json.dumps([*filters.values(), str(since), str(until), request.outcome])
        after = from_page_token(listing, request.page_token)
        query = AuditQuery(
            since=since,
            until=until,
            outcome=_OUTCOMES.get(request.outcome),
            before=None if after is None else _place(*after, request.page_token),
            **filters,
        )
        page = await self._store.page(query, size + 1)
        last = page[size - 1].place if len(page) > size else None
        token = "" if last is None else to_page_token(listing, (last.at_ms, json.dumps([last.source, last.id])))
        entries = [_packed(entry) async for entry in in_turns(page[:size])]
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=token)


def _place(at_ms: int, rest: str, token: str) -> Place:
    """Return the place that a page token names; anybody can make one. Raises InvalidRequest."""
    try:
        match json.loads(rest):
            case [int(source), str(entry_id)] if at_ms in _MOMENTS and entry_id.isascii() and entry_id.isalnum():
                return Place(at_ms, source, entry_id)
    except (ValueError, RecursionError):
        pass
    raise bad_page_token(token)


def _packed(entry: AuditEntry) -> pb.AuditEntry:
    message = pb.AuditEntry(
        actor=entry.actor,
        on_behalf_of=entry.on_behalf_of,
        action=entry.action,
        outcome=_NUMBERS[entry.outcome],
        flag_set=entry.flag_set,
        subject=entry.subject,
        reason=entry.reason,
        revision=entry.revision,
    )
    message.time.FromDatetime(entry.at)
    return message


def _time(request: pb.ListAuditEntriesRequest, name: str) -> datetime | None:
    if not request.HasField(name):  # type: ignore[arg-type]  # it is one of its fields
        return None
    value: Timestamp = getattr(request, name)
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid(name, value.seconds, "a time from the year 1 to 9999") from None
