"""Segments in definitions: what a store writes into flags, what it refuses, and that random ones mean what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flagsvc.core import changes
from flagsvc.core.errors import InvalidRequest, SegmentConflict, SegmentExists, SegmentInUse, SegmentNotFound
from flagsvc.core.evaluation import prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.segments import (
    Segment,
    SegmentChange,
    check_segments,
    create,
    delete,
    refreshed,
    segments_of,
    update,
    with_segments,
)
from flagsvc.core.validation import validated

AT = datetime(2026, 11, 30, tzinfo=UTC)
AUTHOR = changes.Author(AT)
PRO = '{"==":[{"var":"plan"},"pro"]}'
STAFF = '{"in":[{"var":"mail"},["a@b.c"]]}'


def flag(*names: str) -> Flag:
    rule = {"if": [{"or": [{"$ref": f"segment:{name}"} for name in names]}, "on", "off"]}
    return Flag(key="f", status=Status.ENABLED, targeting=json.dumps(rule))


def changed(name: str, rule: str | None) -> SegmentChange:
    segment = Segment(name=name, rule=rule or "{}")
    return SegmentChange(None if rule else segment, segment if rule else None, AUTHOR)


def refused(change: SegmentChange, rules: dict[str, str], users: tuple[str, ...] = ()) -> str:
    with pytest.raises(InvalidRequest) as found:
        check_segments(change, rules, users)
    return str(found.value)


def test_a_definition_carries_the_segments_that_it_refers_to() -> None:
    change = changes.create(validated(flag("pro")), AUTHOR)(None)
    assert change is not None
    assert change.after is not None
    assert segments_of(change.after) == ["pro"]
    stored = with_segments(change, {"pro": PRO})
    assert stored.after is not None
    assert stored.after.evaluators == {"segment:pro": PRO}
    assert stored.new is not None
    assert stored.new["evaluators"] == {"segment:pro": PRO}
    assert prepare(stored.after).evaluate({"plan": "pro"}, 0.0).value is True
    assert prepare(stored.after).evaluate({"plan": "free"}, 0.0).value is False


def test_a_reference_that_is_escaped_is_one_too() -> None:
    escaped = flag("pro").targeting.replace("segment", "\\u0073egment")  # type: ignore[union-attr]
    assert segments_of(replace(flag(), targeting=escaped)) == ["pro"]


def test_what_a_caller_writes_under_the_prefix_is_replaced() -> None:
    forged = replace(flag("pro"), evaluators={"segment:pro": STAFF, "segment:other": STAFF, "own": PRO})
    change = refreshed(forged, {"pro": PRO, "other": PRO}, AUTHOR)
    assert change.after is not None
    assert change.after.evaluators == {"own": PRO, "segment:pro": PRO}


def test_a_segment_that_does_not_exist_is_refused_with_its_flag() -> None:
    with pytest.raises(InvalidRequest, match=r"flag\.targeting of flag 'f' is 'segment:pro'; it must be the name of a"):
        refreshed(flag("pro"), {}, AUTHOR)


def test_what_a_segment_makes_of_a_flag_has_to_be_valid() -> None:
    long = json.dumps({"in": [{"var": "a"}, {"var": "b"}]})
    costly = json.dumps({"and": [{"map": [{"var": "l"}, json.loads(long)]} for _ in range(60)]})
    with pytest.raises(InvalidRequest, match="at most 5 ms"):
        refreshed(flag("costly"), {"costly": costly}, AUTHOR)


def test_decisions() -> None:
    made = create(Segment(name="pro", rule=' {"==": [{"var": "plan"}, "pro"]}'), AUTHOR)(None)
    assert made is not None
    assert made.after is not None
    assert (made.after.rule, made.after.created_at) == (PRO, AT)
    there = replace(made.after, version=3)
    with pytest.raises(SegmentExists):
        create(there, AUTHOR)(there)
    assert update(there, ["rule"], 3, AUTHOR)(there) is None
    with pytest.raises(SegmentConflict, match="has version 3, not 2"):
        update(replace(there, rule=STAFF), ["rule"], 2, AUTHOR)(there)
    with pytest.raises(SegmentNotFound):
        delete("pro", None, AUTHOR)(None)


@pytest.mark.parametrize(
    ("segment", "field"),
    [
        (Segment(name="a b", rule=PRO), "segment.name"),
        (Segment(name="a", rule="{"), "segment.rule"),
        (Segment(name="a", rule='{"no_such": 1}'), "segment.rule.no_such"),
        (Segment(name="a", rule='"on"'), "segment.rule"),
        (Segment(name="a", rule=PRO, description="\0"), "segment.description"),
        (Segment(name="a", rule=json.dumps({"in": ["x", "y" * 65_536]})), "segment.rule"),
    ],
)
def test_what_is_no_segment_is_refused_with_the_field(segment: Segment, field: str) -> None:
    with pytest.raises(InvalidRequest) as found:
        create(segment, AUTHOR)
    assert [each.field for each in found.value.violations] == [field]


def test_cycles_chains_and_what_is_missing_are_refused() -> None:
    def refer(name: str) -> str:
        return json.dumps({"!": {"$ref": f"segment:{name}"}})

    rules = {"a": refer("b"), "b": PRO}
    assert "b -> a -> b" in refused(changed("b", refer("a")), rules) or "a -> b -> a" in refused(
        changed("b", refer("a")), rules
    )
    assert "'segment:none'" in refused(changed("b", refer("none")), rules)
    chain = {str(i): refer(str(i - 1)) if i else PRO for i in range(11)}
    check_segments(changed("10", refer("9")), chain, ())
    assert "part of a longer chain" in refused(changed("11", refer("10")), chain)
    with pytest.raises(SegmentInUse, match='used by the flags "x", "y" and the segments "a"'):
        check_segments(changed("b", None), rules, ("y", "x"))
    check_segments(changed("a", None), rules, ())
