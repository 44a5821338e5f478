"""Keeps segments. The source of the synchronous form: after a change run `make sync-client`."""

from __future__ import annotations

from flagsvc_client.results import WriteLevel
from flagsvc_client.segments.kept import Segment, SegmentUpdate, SegmentUsers, segment_of, update_of, users_of
from flagsvc_client.session import PAGE_SIZE, Session
from flagsvc_client.stubs.flagsvc.v1 import segment_service_pb2 as pb
from flagsvc_client.transport.aio import Transport


class AsyncSegments:
    """The part of a client that is about segments. Every failed call raises a FlagServiceError."""

    _session: Session
    _transport: Transport

    async def segments(self) -> list[Segment]:
        """Read all segments of the set, by name."""
        request = pb.ListSegmentsRequest(flag_set=self._session.flag_set, page_size=PAGE_SIZE)
        found = list[Segment]()
        while True:
            page = await self._transport.call("ListSegments", request)
            found += map(segment_of, page.segments)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def segment(self, name: str) -> Segment:
        """Read one segment."""
        return segment_of((await self._get_segment(name)).segment)

    async def segment_users(self, name: str) -> SegmentUsers:
        """Read who uses a segment."""
        return users_of((await self._get_segment(name)).users)

    async def create_segment(
        self,
        name: str,
        rule: str,
        *,
        description: str = "",
        reason: str = "",
        on_behalf_of: str = "",
        request_id: str = "",
    ) -> Segment:
        """Create a segment. `rule`: JSON text. `request_id`: a name for this write; sent again, it is made once."""
        message = pb.Segment(name=name, flag_set=self._session.flag_set, rule=rule, description=description)
        request = pb.CreateSegmentRequest(segment=message, request_id=request_id)
        self._session.put_author(request, reason, on_behalf_of)
        return segment_of((await self._transport.call("CreateSegment", request, self._session.write_timeout_s)).segment)

    async def update_segment(
        self,
        name: str,
        *,
        rule: str | None = None,
        description: str | None = None,
        etag: str = "",
        validate_only: bool = False,
        reason: str = "",
        on_behalf_of: str = "",
        wait_for: WriteLevel | None = None,
        wait_timeout_s: float | None = None,
        request_id: str = "",
    ) -> SegmentUpdate:
        """Change a segment, and every flag that uses it, in one transaction. Later reads show it.

        `validate_only`: change nothing, and say which flags would change. `request_id`: a name for this write; sent
        again, it is made once.
        """
        message = pb.Segment(name=name, flag_set=self._session.flag_set, etag=etag)
        request = pb.UpdateSegmentRequest(segment=message, validate_only=validate_only, request_id=request_id)
        for field, value in (("rule", rule), ("description", description)):
            if value is not None:
                setattr(request.segment, field, value)
                request.update_mask.paths.append(field)
        timeout_s = self._session.complete_write_request(
            request, reason=reason, on_behalf_of=on_behalf_of, wait_for=wait_for, wait_timeout_s=wait_timeout_s
        )
        response = await self._transport.call("UpdateSegment", request, timeout_s)
        if response.HasField("spread"):
            self._session.note_written(response.spread.revision)
        return update_of(response)

    async def delete_segment(
        self, name: str, *, etag: str = "", reason: str = "", on_behalf_of: str = "", request_id: str = ""
    ) -> None:
        """Delete a segment that nothing uses. `request_id`: a name for this write; sent again, it is made once."""
        request = pb.DeleteSegmentRequest(flag_set=self._session.flag_set, name=name, etag=etag, request_id=request_id)
        self._session.put_author(request, reason, on_behalf_of)
        await self._transport.call("DeleteSegment", request, self._session.write_timeout_s)

    async def _get_segment(self, name: str) -> pb.GetSegmentResponse:
        request = pb.GetSegmentRequest(flag_set=self._session.flag_set, name=name)
        found: pb.GetSegmentResponse = await self._transport.call("GetSegment", request)
        return found
