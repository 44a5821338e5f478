"""The part of FlagService that is about revisions: lists, rollbacks, and the moments that requests ask about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any, Protocol

import grpc

from flagsvc.api.common.answers import FEWER_KEYS, AnswerSize, is_long_work
from flagsvc.api.flag_service import messages, paging, writes
from flagsvc.api.flag_service.authors import author_of
from flagsvc.core import validation
from flagsvc.core.errors import invalid
from flagsvc.core.evaluation import ValueType
from flagsvc.core.model import MAX_REVISION, Attributes, FlagId
from flagsvc.core.revisions.model import AsOf, Moment, Recorded, restored_revision
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import FlagStore
from flagsvc.ports.revisions import RolledBack
from flagsvc.serving.past import Past
from flagsvc.serving.rollbacks import rollback_of, set_rollback
from flagsvc.serving.writer import Writer, WriteResult
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]


class RevisionParts(Protocol):
    """The parts of a replica that these handlers call."""

    store: FlagStore
    writer: Writer
    past: Past


class RevisionHandlers:
    """The handlers."""

    def __init__(self, parts: RevisionParts) -> None:
        self._writer, self._past = parts.writer, parts.past
        self._writes = writes.RequestedWrites(parts.store, parts.writer)

    async def _evaluate_as_of(
        self, request: pb.EvaluateFlagRequest, flag_id: FlagId, context: Attributes, expected: ValueType | None
    ) -> bytes:
        """Answer EvaluateFlag as of another moment."""
        evaluation, explained, moment = await self._past.evaluate(
            flag_id, context, expected, as_of_of(request), explained=request.explain
        )
        encoded = await off_loop(messages.encoded_response, evaluation, explained)
        return encoded + _encoded_moment(pb.EvaluateFlagResponse, moment)

    async def _batch_as_of(self, request: pb.BatchEvaluateFlagsRequest, flag_set: str, context: Attributes) -> bytes:
        """Answer BatchEvaluateFlags as of another moment. The response is encoded in turns, piece by piece."""
        found, moment = await self._past.evaluate_all(flag_set, request.flag_keys, context, as_of_of(request))
        parts, size = [_encoded_moment(pb.BatchEvaluateFlagsResponse, moment)], AnswerSize(FEWER_KEYS)
        pack = messages.encoded_evaluation
        async for evaluation in found:
            part = await off_loop(pack, evaluation) if is_long_work(evaluation) else pack(evaluation)
            size.add(len(part))
            parts.append(part)
        return await size.joined(parts)

    async def ListFlagRevisions(self, request: pb.ListFlagRevisionsRequest, context: Context) -> Any:
        """List a flag's revisions in pages, newest first."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        size, listing = paging.page_size(request.page_size, default=50), f"revisions {flag_id}"
        below, _ = paging.from_page_token(listing, request.page_token) or (0, "")
        page = await self._past.revisions(flag_id, below, size + 1)
        has_more = len(page) > size
        token = paging.to_page_token(listing, (page[size - 1].revision, "")) if has_more else ""
        return await off_loop(_encoded_revisions, page[:size], token)

    async def RollbackFlag(self, request: pb.RollbackFlagRequest, context: Context) -> Any:
        """Roll a flag back to an earlier definition."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected, author = validation.etag_revision(request.etag), author_of(request)
        decide = await rollback_of(self._past, flag_id, _revision(request.revision), expected, author)
        written = await self._writes.make(request, flag_id, decide)
        return await off_loop(writes.encoded_write, pb.RollbackFlagResponse, written)

    async def RollbackFlagSet(self, request: pb.RollbackFlagSetRequest, context: Context) -> Any:
        """Roll a whole set back to earlier definitions."""
        flag_set, revision = validation.set_name(request.flag_set), _revision(request.revision)
        author, wait_for = author_of(request), messages.wait_for(request)
        decide, remembered = set_rollback(revision, author), writes.write_request_of(request)
        if request.validate_only:
            done = await self._writer.preview_rollback(flag_set, revision, decide, author)
            return await off_loop(_encoded_rollback, done, None)
        written = await self._writer.roll_back(flag_set, revision, decide, author, wait_for, request=remembered)
        return await off_loop(_encoded_rollback, *written)


def as_of_of(request: pb.EvaluateFlagRequest | pb.BatchEvaluateFlagsRequest | pb.GetFlagRequest) -> AsOf:
    """Return the moment that a request asks about. Raises InvalidRequest."""
    if request.min_revision:
        raise invalid("min_revision", request.min_revision, "0 where as_of is set: it is about the flags of now")
    message = request.as_of
    if message.WhichOneof("at") == "revision":
        return AsOf(_revision(message.revision, "as_of.revision"))
    if message.WhichOneof("at") is None:
        raise invalid("as_of", "empty", "a revision or a time")
    try:
        return AsOf(time=message.time.ToDatetime(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise invalid("as_of.time", message.time.seconds, "a time from year 1 to 9999") from None


def _encoded_moment(response: type[pb.EvaluateFlagResponse | pb.BatchEvaluateFlagsResponse], moment: Moment) -> bytes:
    """Return a response with its moment alone. Joined with another one, both are one message."""
    message = response()
    message.as_of.revision = moment.revision
    message.as_of.time.FromDatetime(moment.at)
    return message.SerializeToString()


def _revision(number: int, field: str = "revision") -> int:
    if not 1 <= number <= MAX_REVISION:
        raise invalid(field, number, "a revision of the flag set, from 1 on")
    return number


def _encoded_revisions(page: Sequence[Recorded], token: str) -> bytes:
    response = pb.ListFlagRevisionsResponse(next_page_token=token)
    for each in page:
        about = each.about
        message = response.revisions.add(
            flag_key=each.id.key,
            revision=each.revision,
            action=about.action,
            actor=about.caller or about.actor,
            on_behalf_of=about.actor if about.caller and about.actor != about.caller else "",
            reason=about.reason,
            restored_revision=restored_revision(about.via),
            deleted=each.gone,
        )
        message.time.FromDatetime(each.at)
    return response.SerializeToString()


def _encoded_rollback(done: RolledBack, result: WriteResult | None) -> bytes:
    spread = messages.spread_to_message(result) if result is not None else None
    response = pb.RollbackFlagSetResponse(spread=spread)
    for each in done.flags:
        response.flags.add(flag_key=each.key, action=each.action, revision=each.revision, fields=each.fields)
    for segment in done.segments:
        response.segments.add(name=segment.name, action=segment.action)
    return response.SerializeToString()
