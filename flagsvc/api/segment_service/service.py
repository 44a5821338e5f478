"""flagsvc.v1.SegmentService. Each handler unpacks, calls once and packs; the interceptor maps errors."""

from __future__ import annotations

from typing import Any

import grpc

from flagsvc.api.flag_service.authors import author_of
from flagsvc.api.flag_service.messages import wait_for
from flagsvc.api.flag_service.paging import from_page_token, page_size
from flagsvc.api.flag_service.writes import write_request_of
from flagsvc.api.segment_service import messages
from flagsvc.core import segments, validation
from flagsvc.core.errors import SegmentsMissing
from flagsvc.core.segments import SegmentDecide, SegmentId
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import segment_service_pb2_grpc as pb_grpc
from flagsvc.ports.segments import SegmentStore, SegmentWritten
from flagsvc.serving.writer import WaitFor, Writer, WriteResult
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]


class SegmentService(pb_grpc.SegmentServiceServicer):
    """Serves flagsvc.v1.SegmentService. `store` None: the store keeps no segments."""

    def __init__(self, store: SegmentStore | None, writer: Writer) -> None:
        self._given, self._writer = store, writer

    @property
    def _store(self) -> SegmentStore:
        if self._given is None:
            raise SegmentsMissing
        return self._given

    async def CreateSegment(self, request: pb.CreateSegmentRequest, context: Context) -> pb.CreateSegmentResponse:
        """Create a segment, which no flag uses yet."""
        wanted = messages.segment_of(request)
        decide = await off_loop(segments.create, wanted, author_of(request))
        written, _ = await self._write(request, wanted.id, decide, WaitFor())
        assert written.segment is not None  # noqa: S101  it is created
        return pb.CreateSegmentResponse(segment=messages.to_message(written.segment))

    async def GetSegment(self, request: pb.GetSegmentRequest, context: Context) -> pb.GetSegmentResponse:
        """Return one segment and who uses it."""
        segment_id = messages.id_of(request)
        segment, users = await self._store.get(segment_id), await self._store.users(segment_id)
        return await off_loop(messages.found, segment, users)

    async def ListSegments(self, request: pb.ListSegmentsRequest, context: Context) -> pb.ListSegmentsResponse:
        """List segments in pages."""
        flag_set, size = validation.set_name(request.flag_set), page_size(request.page_size, default=100)
        listing = f"segments {flag_set}"
        _, after = from_page_token(listing, request.page_token) or (0, "")
        return await off_loop(messages.page, listing, await self._store.of_set(flag_set), after, size)

    async def UpdateSegment(self, request: pb.UpdateSegmentRequest, context: Context) -> pb.UpdateSegmentResponse:
        """Change a segment, and every flag that uses it."""
        wanted, fields = messages.segment_of(request), messages.masked(request)
        expected, wait = validation.etag_revision(request.segment.etag), wait_for(request)
        decide = segments.update(wanted, fields, expected, author_of(request))
        written, result = await self._write(request, wanted.id, decide, wait)
        return await off_loop(messages.updated, written, result)

    async def DeleteSegment(self, request: pb.DeleteSegmentRequest, context: Context) -> pb.DeleteSegmentResponse:
        """Delete a segment that nothing uses."""
        segment_id, expected = messages.id_of(request), validation.etag_revision(request.etag)
        decide = segments.delete(segment_id.name, expected, author_of(request))
        await self._write(request, segment_id, decide, WaitFor())
        return pb.DeleteSegmentResponse()

    async def _write(
        self, request: Any, segment_id: SegmentId, decide: SegmentDecide, wait: WaitFor
    ) -> tuple[SegmentWritten, WriteResult | None]:
        remembered = write_request_of(request)
        if request.validate_only:
            return await self._writer.preview_segment(segment_id, decide), None
        return await self._writer.write_segment(segment_id, decide, wait, remembered)
