"""Segments as they were at a revision: how each is kept, and what a rollback of a set makes of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..changes import Author
from ..documents import json_safe, times_from_json
from ..errors import NotRestorable, SegmentInUse
from ..segment_names import direct
from .changes import SegmentChange, moment_of
from .model import MAX_SET_BYTES, Segment, SegmentId


def pack(segment: Segment) -> bytes:
    """Return what is kept of a segment: compressed JSON, without version and revision."""
    fields = {"rule": segment.rule, "description": segment.description}
    times = {"createdAt": segment.created_at, "updatedAt": segment.updated_at}
    return zlib.compress(json.dumps(json_safe(fields | times), ensure_ascii=False).encode(errors="surrogatepass"))


def unpack(packed: bytes, segment_id: SegmentId) -> Segment:
    """Return a segment as it was kept. Raises NotRestorable for what cannot be read."""
    try:
        fields = times_from_json(json.loads(zlib.decompress(packed)))
        return Segment(
            name=segment_id.name,
            flag_set=segment_id.flag_set,
            rule=fields["rule"],
            description=fields["description"],
            created_at=fields.get("createdAt"),
            updated_at=fields.get("updatedAt"),
        )
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError):
        raise NotRestorable(f'what is kept of the segment "{segment_id.name}" is malformed') from None


def restored(past: Mapping[str, Segment | None], current: Mapping[str, Segment], author: Author) -> list[SegmentChange]:
    """Return the changes that give segments the rules and descriptions that they had, by name.

    `past`: those that have changed since; None: there was none. Raises NotRestorable where they are too large.
    """
    changes = [_restored(was, current.get(name), author) for name, was in sorted(past.items())]
    found = [change for change in changes if change is not None]
    if sum(len(each.after.rule) for each in found if each.after is not None) > MAX_SET_BYTES:
        raise NotRestorable("the segments that would change are too large for one transaction")
    return found


def check_restored(changes: Iterable[SegmentChange], rules: Mapping[str, str], users: Mapping[str, list[str]]) -> None:
    """Refuse to delete a segment that something uses. `rules`: of all segments after the changes.

    `users`: keys of the flags that have a deleted segment after the rollback, by its name.
    """
    for change in changes:
        if change.after is None and change.before is not None:
            name = change.before.name
            referring = sorted(each for each, text in rules.items() if name in direct(text))
            if referring or users.get(name):
                raise SegmentInUse(name, sorted(users.get(name, ())), referring)


def _restored(was: Segment | None, current: Segment | None, author: Author) -> SegmentChange | None:
    if was is None:
        return None if current is None else SegmentChange(current, None, author)
    now = moment_of(author)
    if current is None:
        return SegmentChange(None, replace(was, updated_at=now), author)
    after = replace(current, rule=was.rule, description=was.description)
    return None if after == current else SegmentChange(current, replace(after, updated_at=now), author)
