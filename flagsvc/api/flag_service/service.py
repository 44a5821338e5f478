"""flagsvc.v1.FlagService. Each handler unpacks, calls once and packs; the interceptor maps errors.

Whole flags, which may be large, are packed, encoded and unpacked outside the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc

from flagsvc.api.common.answers import FEWER_KEYS, SMALLER_PAGE, AnswerSize, is_long_work, within_limit
from flagsvc.api.common.bulk import Bulk, BulkCall, Packing, asked
from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.contexts import Contexts, LazyContext, in_full
from flagsvc.api.common.replies import Reply, keep, kept
from flagsvc.api.flag_service import messages, paging, revisions
from flagsvc.api.flag_service.authors import author_of
from flagsvc.api.flag_service.flag_messages import flag_from_message, flag_to_message
from flagsvc.api.flag_service.replica_messages import audit_report_to_message, status_to_message
from flagsvc.api.flag_service.revisions import RevisionHandlers, RevisionParts
from flagsvc.api.flag_service.watch import Watches
from flagsvc.api.flag_service.writes import Written, encoded_write, write_request_of
from flagsvc.core import changes, validation
from flagsvc.core.bucketing import checked_bucketing
from flagsvc.core.errors import invalid
from flagsvc.core.model import WRITABLE, Change, Flag, HistoryEntry, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.replication.cache_audit import CacheAuditor
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.resync import Resync
from flagsvc.schedules.planner import SchedulePlanner
from flagsvc.serving.bucketings import MAX_LISTED, Bucketings
from flagsvc.serving.reader import Evaluation, Reader
from flagsvc.serving.writer import WriteResult
from flagsvc.turns import in_turns, off_loop
from flagsvc.view.entries import Source

Context = grpc.aio.ServicerContext[Any, Any]


class Parts(RevisionParts, Protocol):
    """The parts of a replica that the service calls."""

    reader: Reader
    heartbeats: Heartbeats
    cache_auditor: CacheAuditor
    resync: Resync
    bucketings: Bucketings
    planner: SchedulePlanner


class FlagService(RevisionHandlers, pb_grpc.FlagServiceServicer):
    """Serves flagsvc.v1.FlagService."""

    def __init__(
        self, parts: Parts, watches: Watches, contexts: Contexts, evaluated: Callable[[Evaluation], None], bulk: Bulk
    ) -> None:
        super().__init__(parts)
        self._reader = parts.reader
        self._heartbeats, self._cache_auditor = parts.heartbeats, parts.cache_auditor
        self._resync, self._bucketings, self._planner = parts.resync, parts.bucketings, parts.planner
        self._watches, self._contexts, self._evaluated, self._bulk = watches, contexts, evaluated, bulk

    async def EvaluateFlag(self, request: pb.EvaluateFlagRequest, context: Context) -> Any:
        """Evaluate one flag."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        attributes = self._contexts.of_message(request.context, context.invocation_metadata)
        if attributes.__class__ is LazyContext and attributes.is_large:
            attributes = await in_full(attributes)
        expected = messages.expected_type(request.expected_type)
        min_revision = messages.min_revision(request.min_revision)
        if request.HasField("as_of"):
            return await self._evaluate_as_of(request, flag_id, attributes, expected)
        if request.explain:
            evaluation, explained = await self._reader.explain(flag_id, attributes, expected, min_revision)
            self._evaluated(evaluation)
            return await off_loop(messages.encoded_response, evaluation, explained)
        at_once = self._reader.evaluate_at_once(flag_id, attributes, expected, min_revision)
        evaluation = at_once or await self._reader.evaluate(flag_id, attributes, expected, min_revision)
        self._evaluated(evaluation)
        reply = kept(evaluation, expected)
        if reply is None:
            if is_long_work(evaluation):
                return await off_loop(messages.encoded_response, evaluation, None)
            reply = messages.around_age(evaluation)
            keep(evaluation, expected, reply)
        return messages.with_age(reply, evaluation.age_s)

    async def BatchEvaluateFlags(self, request: pb.BatchEvaluateFlagsRequest, context: Context) -> Any:
        """Evaluate several flags, or without keys the whole set. The response is encoded in turns, piece by piece."""
        attributes = self._contexts.of_message(request.context, context.invocation_metadata)
        if len(request.flag_keys) > validation.MAX_BATCH:
            raise invalid("flag_keys", f"{len(request.flag_keys)} keys", f"at most {validation.MAX_BATCH} keys")
        flag_set = validation.set_name(request.flag_set)
        if request.HasField("as_of"):
            return await self._batch_as_of(request, flag_set, await in_full(attributes))
        min_revision, keys = messages.min_revision(request.min_revision), request.flag_keys

        async def evaluate() -> AsyncIterator[Evaluation]:
            fields = await in_full(attributes)
            if keys:
                return in_turns(await self._reader.evaluate_all(flag_set, keys, fields, min_revision))
            return self._reader.evaluate_set(flag_set, fields, min_revision)

        request.ClearField("min_revision")  # whatever it is, the answer is the same once there is one
        question = request.SerializeToString(deterministic=True)
        added = self._contexts.added(context.invocation_metadata)
        pack = messages.around_age if len(set(keys)) == len(keys) else _once_for_each_key(messages.around_age)
        call = BulkCall(
            asked("BatchEvaluateFlags", flag_set, "", question, added),
            evaluate,
            Packing(None, pack, messages.with_age, messages.ageless, messages.age_between),
            size := AnswerSize(FEWER_KEYS),
            min_revision,
        )
        return await size.joined(await self._bulk.parts(call))

    async def GetFlag(self, request: pb.GetFlagRequest, context: Context) -> Any:
        """Return one flag's definition."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        if request.HasField("as_of"):
            past = await self._past.get(flag_id, revisions.as_of_of(request))
            return await off_loop(_encoded_flag, past, messages.SOURCES[Source.STORE], 0)
        flag, answer = await self._reader.get(flag_id, messages.min_revision(request.min_revision))
        source, age_ms = messages.SOURCES[answer.source], int(answer.age_s * 1000)
        return await off_loop(_encoded_flag, flag, source, age_ms)

    async def ListFlags(self, request: pb.ListFlagsRequest, context: Context) -> Any:
        """List a flag set in pages."""
        flag_set = validation.set_name(request.flag_set)
        size = paging.page_size(request.page_size, default=100)
        after = paging.from_page_token(flag_set, request.page_token)
        page = await self._reader.page(flag_set, after, size + 1)
        has_more = len(page) > size
        page = page[:size]
        token = paging.to_page_token(flag_set, (page[-1].sort_order, page[-1].key)) if has_more else ""
        return await off_loop(_encoded_list, page, token)

    async def CreateFlag(self, request: pb.CreateFlagRequest, context: Context) -> Any:
        """Create a flag."""
        flag = await off_loop(flag_from_message, request.flag)
        flag_id = validation.flag_id(flag.flag_set, flag.key, "flag.key")
        decide = await off_loop(changes.create, flag, author_of(request))
        written = await self._writes.make(request, flag_id, decide)
        return await off_loop(encoded_write, pb.CreateFlagResponse, written)

    async def UpdateFlag(self, request: pb.UpdateFlagRequest, context: Context) -> Any:
        """Change the fields in the mask."""
        fields = messages.masked(list(request.update_mask.paths))
        flag = await off_loop(flag_from_message, request.flag)
        flag_id = validation.flag_id(flag.flag_set, flag.key, "flag.key")
        expected = validation.etag_revision(request.flag.etag)
        decide = changes.update(flag, fields, expected, author_of(request))
        written = await self._writes.make(request, flag_id, decide)
        notes = await self._planner.notes(flag_id, fields, is_made=isinstance(written, WriteResult))
        encoded = await off_loop(encoded_write, pb.UpdateFlagResponse, written)
        return encoded + pb.UpdateFlagResponse(schedule_notes=notes).SerializeToString()  # joined, they are one message

    async def ToggleFlag(self, request: pb.ToggleFlagRequest, context: Context) -> Any:
        """Switch a flag to the requested state."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected = validation.etag_revision(request.etag)
        decide = changes.toggle(flag_id.key, request.enabled, expected, author_of(request))
        before: list[Flag] = []  # a store may decide again: the last one counts

        def decide_and_note(current: Flag | None) -> Change | None:
            before[:] = [current] if current is not None else []
            return decide(current)

        remembered = write_request_of(request)
        written = await self._writes.make(request, flag_id, decide_and_note, remembered)
        notes = await self._planner.notes(flag_id, ["status"], is_made=isinstance(written, WriteResult))
        previous = remembered.previous if remembered is not None else ""
        status = Status(previous) if previous else before[0].status
        return await off_loop(_encoded_toggle, written, status, notes)

    async def DeleteFlag(self, request: pb.DeleteFlagRequest, context: Context) -> pb.DeleteFlagResponse:
        """Delete a flag."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected = validation.etag_revision(request.etag)
        decide = changes.delete(flag_id.key, expected, author_of(request))
        written = await self._writes.make(request, flag_id, decide)
        is_made = isinstance(written, WriteResult)
        notes = await self._planner.notes(flag_id, WRITABLE, is_made=is_made, gone=True)
        spread = messages.spread_to_message(written) if isinstance(written, WriteResult) else None
        revision = written.entry.revision if spread is not None else 0
        return pb.DeleteFlagResponse(revision=revision, spread=spread, schedule_notes=notes)

    async def ListFlagHistory(self, request: pb.ListFlagHistoryRequest, context: Context) -> Any:
        """List a flag's changes, newest first."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        entries = await self._reader.history(flag_id, paging.page_size(request.page_size, default=50))
        return await off_loop(_encoded_history, entries)

    async def WatchFlags(self, request: pb.WatchFlagsRequest, context: Context) -> AsyncIterator[Any]:
        """Stream a flag set: a snapshot, whose pages are encoded already, then each change."""
        flag_set, resume = validation.set_name(request.flag_set), request.resume_revision
        proven = CALLER.get().context
        async for message in self._watches.stream(flag_set, resume, proven, in_pages=request.paged_snapshots):
            yield message

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Report the status of every known replica."""
        heartbeats, complete = await self._heartbeats.statuses()
        return status_to_message(heartbeats, answered_by=self._heartbeats.name, complete=complete)

    async def VerifyCache(self, request: pb.VerifyCacheRequest, context: Context) -> pb.VerifyCacheResponse:
        """Compare the shared cache with the store."""
        return audit_report_to_message(await self._cache_auditor.verify(repair=request.repair))

    async def Resync(self, request: pb.ResyncRequest, context: Context) -> pb.ResyncResponse:
        """Read everything from the store again, on every replica."""
        report = await self._resync.run(confirm=request.confirm)
        return pb.ResyncResponse(
            done=report.done,
            store=report.store,
            flags=report.flags,
            resynced=report.resynced,
            waiting=report.waiting,
        )

    async def GetBucketing(self, request: pb.GetBucketingRequest, context: Context) -> pb.GetBucketingResponse:
        """Return the bucketing of a set."""
        found = await self._bucketings.read(validation.set_name(request.flag_set))
        return pb.GetBucketingResponse(
            bucketing=found.bucketing, outdated=len(found.moved), flag_keys=found.moved[:MAX_LISTED]
        )

    async def SetBucketing(self, request: pb.SetBucketingRequest, context: Context) -> pb.SetBucketingResponse:
        """Change the bucketing of a set, or say what that would do."""
        flag_set, version = validation.set_name(request.flag_set), checked_bucketing(request.bucketing)
        report = await self._bucketings.change(flag_set, version, author_of(request), force=request.force)
        return pb.SetBucketingResponse(
            done=report.done,
            previous=report.bucketing,
            moved=len(report.moved),
            flag_keys=report.moved[:MAX_LISTED],
            revision=report.revision,
        )


def _once_for_each_key(pack: Callable[[Evaluation], Reply]) -> Callable[[Evaluation], Reply]:
    """Let evaluations of equal keys, which are the same, be packed once."""
    packed: dict[str, Reply] = {}

    def once(evaluation: Evaluation) -> Reply:
        key = evaluation.flag_id.key
        if key not in packed:
            packed[key] = pack(evaluation)
        return packed[key]

    return once


def _encoded_list(page: list[Flag], token: str) -> bytes:
    """Return a page's response. Joined, responses of one flag each are the response with all."""
    packed = within_limit(map(flag_to_message, page), SMALLER_PAGE)
    parts = [pb.ListFlagsResponse(flags=[flag]).SerializeToString() for flag in packed]
    return b"".join((*parts, pb.ListFlagsResponse(next_page_token=token).SerializeToString()))


def _encoded_history(entries: list[HistoryEntry]) -> bytes:
    """Return the response. The entries are taken out of the list, so that their memory is freed here, off the loop."""
    entries.reverse()
    packed = within_limit((messages.history_to_message(entries.pop()) for _ in range(len(entries))), SMALLER_PAGE)
    try:
        return b"".join([pb.ListFlagHistoryResponse(entries=[entry]).SerializeToString() for entry in packed])
    finally:
        entries.clear()


def _encoded_flag(flag: Flag, source: types.DefinitionSource.ValueType, age_ms: int) -> bytes:
    return pb.GetFlagResponse(flag=flag_to_message(flag), source=source, age_ms=age_ms).SerializeToString()


def _encoded_toggle(written: Written, before: Status, notes: list[str]) -> bytes:
    previous = pb.ToggleFlagResponse(previous_status=messages.STATUSES[before], schedule_notes=notes)
    return encoded_write(pb.ToggleFlagResponse, written) + previous.SerializeToString()  # joined, they are one message
