"""FlagService: each handler unpacks, calls once, packs. Errors are the interceptor's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from flagsvc.core import changes, validation
from flagsvc.core.changes import Author, Decide
from flagsvc.core.errors import invalid
from flagsvc.core.model import ANONYMOUS, WRITABLE, FlagId
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.ports import Entry
from flagsvc.reader import Evaluation, Reader
from flagsvc.rpc import convert, paging
from flagsvc.rpc.contexts import Contexts
from flagsvc.rpc.flags import flag_from_message, flag_to_message
from flagsvc.rpc.watch import Watches
from flagsvc.writer import Writer

Context = grpc.aio.ServicerContext[Any, Any]


class FlagService(pb_grpc.FlagServiceServicer):
    """Serves flagsvc.v1.FlagService from a reader, a writer and the watches."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        watches: Watches,
        contexts: Contexts,
        evaluated: Callable[[Evaluation], None],
    ) -> None:
        self._reader, self._writer, self._watches = reader, writer, watches
        self._contexts, self._evaluated = contexts, evaluated

    async def EvaluateFlag(self, request: pb.EvaluateFlagRequest, context: Context) -> pb.EvaluateFlagResponse:
        """Evaluate one flag."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        attributes = self._contexts.of_message(request.context, context.invocation_metadata)
        wanted = convert.wanted_type(request.expected_type)
        if request.explain:
            evaluation, explanation = await self._reader.explain(flag_id, attributes, wanted)
            explained = convert.explanation_to_message(explanation)
        else:
            evaluation, explained = await self._reader.evaluate(flag_id, attributes, wanted), None
        self._evaluated(evaluation)
        return pb.EvaluateFlagResponse(evaluation=convert.evaluation_to_message(evaluation), explanation=explained)

    async def BatchEvaluateFlags(
        self, request: pb.BatchEvaluateFlagsRequest, context: Context
    ) -> pb.BatchEvaluateFlagsResponse:
        """Evaluate several flags for one context."""
        attributes = dict(self._contexts.of_message(request.context, context.invocation_metadata))
        if len(request.flag_keys) > validation.MAX_BATCH:
            raise invalid("flag_keys", f"{len(request.flag_keys)} keys", f"at most {validation.MAX_BATCH} keys")
        flag_set = validation.set_name(request.flag_set)
        response = pb.BatchEvaluateFlagsResponse()
        for evaluation in await self._reader.evaluate_all(flag_set, request.flag_keys, attributes):
            self._evaluated(evaluation)
            response.evaluations.append(convert.evaluation_to_message(evaluation))
        return response

    async def GetFlag(self, request: pb.GetFlagRequest, context: Context) -> pb.GetFlagResponse:
        """Read one definition."""
        flag, answer = await self._reader.get(validation.flag_id(request.flag_set, request.flag_key))
        source, age_ms = convert.SOURCES[answer.source], int(answer.age_s * 1000)
        return pb.GetFlagResponse(flag=flag_to_message(flag), source=source, age_ms=age_ms)

    async def ListFlags(self, request: pb.ListFlagsRequest, context: Context) -> pb.ListFlagsResponse:
        """List a set in pages."""
        flag_set = validation.set_name(request.flag_set)
        size = paging.page_size(request.page_size, default=100)
        after = paging.from_token(flag_set, request.page_token)
        flags = [f for f in await self._reader.flags(flag_set) if after is None or (f.sort_order, f.key) > after]
        page = flags[:size]
        token = paging.to_token(flag_set, (page[-1].sort_order, page[-1].key)) if len(flags) > size else ""
        return pb.ListFlagsResponse(flags=map(flag_to_message, page), next_page_token=token)

    async def CreateFlag(self, request: pb.CreateFlagRequest, context: Context) -> pb.CreateFlagResponse:
        """Create a flag."""
        flag = flag_from_message(request.flag)
        flag_id = validation.flag_id(flag.flag_set, flag.key, "flag.key")
        entry = await self._write(flag_id, changes.create(flag, _author(request.actor, request.reason)))
        return pb.CreateFlagResponse(flag=flag_to_message(_flag(entry)))

    async def UpdateFlag(self, request: pb.UpdateFlagRequest, context: Context) -> pb.UpdateFlagResponse:
        """Change the named fields."""
        fields = _masked(list(request.update_mask.paths))
        flag = flag_from_message(request.flag)
        flag_id = validation.flag_id(flag.flag_set, flag.key, "flag.key")
        expected = validation.etag_revision(request.flag.etag)
        decide = changes.update(flag, fields, expected, _author(request.actor, request.reason))
        return pb.UpdateFlagResponse(flag=flag_to_message(_flag(await self._write(flag_id, decide))))

    async def ToggleFlag(self, request: pb.ToggleFlagRequest, context: Context) -> pb.ToggleFlagResponse:
        """Switch to the wanted state."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected = validation.etag_revision(request.etag)
        author = _author(request.actor, request.reason)
        entry = await self._write(flag_id, changes.toggle(flag_id.key, request.enabled, expected, author))
        return pb.ToggleFlagResponse(flag=flag_to_message(_flag(entry)))

    async def DeleteFlag(self, request: pb.DeleteFlagRequest, context: Context) -> pb.DeleteFlagResponse:
        """Delete a flag."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        expected = validation.etag_revision(request.etag)
        decide = changes.delete(flag_id.key, expected, _author(request.actor, request.reason))
        return pb.DeleteFlagResponse(revision=(await self._write(flag_id, decide)).revision)

    async def ListFlagHistory(self, request: pb.ListFlagHistoryRequest, context: Context) -> pb.ListFlagHistoryResponse:
        """List a flag's changes, newest first."""
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        entries = await self._reader.history(flag_id, paging.page_size(request.page_size, default=50))
        return pb.ListFlagHistoryResponse(entries=map(convert.history_to_message, entries))

    async def WatchFlags(self, request: pb.WatchFlagsRequest, context: Context) -> AsyncIterator[pb.WatchFlagsResponse]:
        """Stream a set: snapshot, then changes."""
        async for message in self._watches.stream(validation.set_name(request.flag_set), request.resume_revision):
            yield message

    async def _write(self, flag_id: FlagId, decide: Decide) -> Entry:
        entry = await self._writer.write(flag_id, decide)
        assert entry is not None  # noqa: S101  only imports decide to do nothing
        return entry


def _flag(entry: Entry) -> Any:
    return entry.flag


def _author(actor: str, reason: str) -> Author:
    actor = validation.text("actor", actor) or ANONYMOUS
    return Author(datetime.now(UTC), actor, validation.text("reason", reason, validation.MAX_REASON))


def _masked(paths: list[str]) -> list[str]:
    """Give the fields that a mask names. Raises InvalidRequest for none, or one that cannot be written."""
    wanted = f"* or fields among {', '.join(WRITABLE)}"
    if paths == ["*"]:
        return list(WRITABLE)
    if not paths:
        raise invalid("update_mask", "empty", wanted, "INVALID_UPDATE_MASK")
    for path in paths:
        if path not in WRITABLE:
            raise invalid("update_mask", path, wanted, "INVALID_UPDATE_MASK")
    return list(dict.fromkeys(paths))
