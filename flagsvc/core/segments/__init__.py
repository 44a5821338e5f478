"""Segments: named rules of a flag set that its flags share. A definition carries those that it refers to.

`model` is what a segment is, `stamping` writes segments into definitions, `changes` decides what may be stored, and
`restoring` what a rollback of a set makes of its segments.
"""

from .changes import SegmentChange, SegmentDecide, affected, all_of, check_segments, create, delete, refreshed, update
from .model import MAX_SEGMENTS, PREFIX, Segment, SegmentId, checked_name, validated
from .stamping import further, segments_of, stamp, with_segments

__all__ = [
    "MAX_SEGMENTS",
    "PREFIX",
    "Segment",
    "SegmentChange",
    "SegmentDecide",
    "SegmentId",
    "affected",
    "all_of",
    "check_segments",
    "checked_name",
    "create",
    "delete",
    "further",
    "refreshed",
    "segments_of",
    "stamp",
    "update",
    "validated",
    "with_segments",
]
