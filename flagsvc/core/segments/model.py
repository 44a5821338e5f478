"""What a segment is, and what is valid in one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from ..errors import InvalidRequest, Violation, invalid, short_repr
from ..json_values import NotJson, compact, json_path, strict_loads
from ..model import DEFAULT_SET
from ..segment_names import PREFIX, direct
from ..shown_text import problem as shown_problem
from ..targeting import problems_of

MAX_SEGMENTS = 1_000
"""Segments of a flag set."""
MAX_RULE_BYTES = 65_536
MAX_SET_BYTES = 4_194_304
"""Rules of all segments of a flag set, in bytes: a change of one reads all of them."""
MAX_DESCRIPTION = 4_096
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")

__all__ = ["MAX_SEGMENTS", "PREFIX", "Segment", "SegmentId", "checked_name", "validated"]


class SegmentId(NamedTuple):
    """A segment's identity."""

    flag_set: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A named rule. `rule` is JSON text, as a flag's targeting is. Times are aware UTC datetimes.

    `version` counts the changes of segments of the set, and is the segment's etag. `revision` is the set's revision
    since which flags have the rule.
    """

    name: str
    flag_set: str = DEFAULT_SET
    rule: str
    description: str = ""
    version: int = 0
    revision: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def id(self) -> SegmentId:
        """The segment's identity: flag set and name."""
        return SegmentId(self.flag_set, self.name)

    @property
    def etag(self) -> str:
        """The version as an entity tag, quoted."""
        return f'"{self.version}"'


def checked_name(name: str) -> str:
    """Return a segment's name. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise invalid("segment.name", name, "1 to 100 letters, digits, _ and -", "INVALID_SEGMENT_NAME")
    return name


def validated(segment: Segment) -> Segment:
    """Return a segment with its rule as compact JSON. Raises InvalidRequest with all violations.

    Segments that the rule refers to are not looked up here; a cycle and a rule that takes too long are found when flags
    get it.
    """
    checked_name(segment.name)
    found: list[Violation] = []
    text = segment.description
    if len(text) > MAX_DESCRIPTION or "\0" in text or shown_problem(text, "\n\r\t"):
        wanted = f"at most {MAX_DESCRIPTION} characters, none of them invisible"
        found.append(Violation("segment.description", short_repr(text), wanted))
    size = len(segment.rule.encode(errors="replace"))
    if size > MAX_RULE_BYTES:
        raise InvalidRequest([*found, Violation("segment.rule", f"{size} bytes", f"at most {MAX_RULE_BYTES}")])
    try:
        rule = strict_loads(segment.rule)
    except NotJson as error:
        raise InvalidRequest([*found, Violation("segment.rule", short_repr(segment.rule), f"JSON; {error}")]) from None
    others = {PREFIX + name: None for name in direct(segment.rule)}
    problems = problems_of(rule, "", others, {}, lambda _: None, limits_cost=False, limits_results=False)
    found += [Violation("segment.rule" + json_path(each.path)[1:], each.message) for each in problems]
    if found:
        raise InvalidRequest(found)
    return replace(segment, rule=compact(rule))
