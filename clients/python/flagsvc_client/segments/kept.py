"""Segments as callers see them, from and to messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flagsvc_client.stubs.flagsvc.v1 import segment_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Segment:
    """A named rule, which flags and other segments use as `{"$ref": "segment:NAME"}`. `rule`: JSON text.

    `revision`: the flag set's revision since which flags have the rule.
    """

    name: str
    rule: str
    description: str
    flag_set: str
    revision: int
    etag: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SegmentUsers:
    """Who uses a segment: the keys of at most 1,000 of `flag_count` flags, and names of segments, each sorted."""

    flag_keys: Sequence[str]
    flag_count: int
    segment_names: Sequence[str]


@dataclass(frozen=True, slots=True)
class SegmentUpdate:
    """A changed segment. `flags`: the keys of the flags that were changed with it, or would be."""

    segment: Segment
    flags: Sequence[str]


def segment_of(message: pb.Segment) -> Segment:
    """Unpack a segment."""
    return Segment(
        name=message.name,
        rule=message.rule,
        description=message.description,
        flag_set=message.flag_set,
        revision=message.revision,
        etag=message.etag,
        created_at=message.create_time.ToDatetime(tzinfo=UTC),
        updated_at=message.update_time.ToDatetime(tzinfo=UTC),
    )


def users_of(message: pb.SegmentUsers) -> SegmentUsers:
    """Unpack the users of a segment."""
    return SegmentUsers(tuple(message.flag_keys), message.flags, tuple(message.segment_names))


def update_of(response: pb.UpdateSegmentResponse) -> SegmentUpdate:
    """Unpack the response to a change."""
    return SegmentUpdate(segment_of(response.segment), tuple(each.flag_key for each in response.flags))
