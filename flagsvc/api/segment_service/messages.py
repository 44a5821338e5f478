"""Segments from and to messages."""

from __future__ import annotations

from collections.abc import Sequence

from flagsvc.api.common.answers import SMALLER_PAGE, within_limit
from flagsvc.api.flag_service.messages import spread_to_message
from flagsvc.api.flag_service.paging import to_page_token
from flagsvc.core import validation
from flagsvc.core.errors import invalid
from flagsvc.core.segments import Segment, SegmentId, checked_name
from flagsvc.generated.flagsvc.v1 import segment_service_pb2 as pb
from flagsvc.ports.segments import SegmentWritten, Users
from flagsvc.serving.writer import WriteResult

FIELDS = ("rule", "description")
MAX_LISTED = 1_000
"""Users of a segment that an answer names."""


def id_of(request: pb.GetSegmentRequest | pb.DeleteSegmentRequest) -> SegmentId:
    """Return which segment a request names. Raises InvalidRequest."""
    return SegmentId(validation.set_name(request.flag_set), checked_name(request.name))


def segment_of(request: pb.CreateSegmentRequest | pb.UpdateSegmentRequest) -> Segment:
    """Return the segment in a request, with what callers may write. Raises InvalidRequest."""
    message = request.segment
    flag_set, name = validation.set_name(message.flag_set), checked_name(message.name)
    return Segment(name=name, flag_set=flag_set, rule=message.rule, description=message.description)


def masked(request: pb.UpdateSegmentRequest) -> Sequence[str]:
    """Return the fields that an update changes. Raises InvalidRequest."""
    paths = list(request.update_mask.paths)
    if paths == ["*"]:
        return FIELDS
    if not paths or not set(FIELDS) >= set(paths):
        wanted = f"* or fields among {', '.join(FIELDS)}"
        raise invalid("update_mask", ", ".join(paths) or "empty", wanted, "INVALID_UPDATE_MASK")
    return paths


def to_message(segment: Segment) -> pb.Segment:
    """Pack a segment."""
    message = pb.Segment(
        name=segment.name,
        flag_set=segment.flag_set,
        rule=segment.rule,
        description=segment.description,
        etag=segment.etag,
        revision=segment.revision,
    )
    if segment.created_at is not None:
        message.create_time.FromDatetime(segment.created_at)
    if segment.updated_at is not None:
        message.update_time.FromDatetime(segment.updated_at)
    return message


def found(segment: Segment, users: Users) -> pb.GetSegmentResponse:
    """Pack a segment with its users."""
    packed = pb.SegmentUsers(
        flag_keys=users.flags[:MAX_LISTED], flags=len(users.flags), segment_names=users.segments[:MAX_LISTED]
    )
    return pb.GetSegmentResponse(segment=to_message(segment), users=packed)


def page(listing: str, segments: Sequence[Segment], after: str, size: int) -> pb.ListSegmentsResponse:
    """Pack the segments after a name."""
    rest = [segment for segment in segments if segment.name > after]
    more = to_page_token(listing, (0, rest[size - 1].name)) if len(rest) > size else ""
    packed = within_limit(map(to_message, rest[:size]), SMALLER_PAGE)
    return pb.ListSegmentsResponse(segments=packed, next_page_token=more)


def updated(written: SegmentWritten, result: WriteResult | None) -> pb.UpdateSegmentResponse:
    """Pack a change, and the flags that have changed with it. `result`: of the last one; None if none was changed."""
    assert written.segment is not None  # noqa: S101  only a deletion leaves none
    response = pb.UpdateSegmentResponse(segment=to_message(written.segment))
    for each in written.flags:
        response.flags.add(flag_key=each.key, revision=each.revision)
    if result is not None:
        response.spread.CopyFrom(spread_to_message(result))
    return response
