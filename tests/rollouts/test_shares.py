"""Who has moved at which moment, and what a rollout decides."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.evaluation import ErrorCode, Reason, explain, prepare
from flagsvc.core.model import Status
from flagsvc.core.rollouts import MAX_SHARE, Point, Rollout, next_step, next_visible_step, rollout_of, share_at
from flagsvc.core.rollouts.shares import MAX_PIECES, MAX_TOTAL, pieces_of
from tests.rollouts.moments import DAY, PEOPLE, START, WEEK, flag, moved, rollout, text

AFTER = START + 8 * DAY


def test_the_share_at_21_moments_and_nobody_moves_back() -> None:
    prepared = prepare(flag(rollout(*WEEK, linear=True)))
    before: set[str] = set()
    for number in range(21):
        at = START + 7 * DAY * number // 20
        now = moved(prepared, at)
        assert abs(len(now) / len(PEOPLE) - number / 20) < 0.035, f"{number / 20:.0%}"
        assert before <= now
        before = now
    assert before == set(PEOPLE)


@pytest.mark.parametrize("version", [2, 3])
def test_steps_hold_from_their_second_on_and_fractions_of_seconds_do_not_count(version: int) -> None:
    steps = rollout(Point(START, 1_000), Point(START + 60, 50_000), Point(START + 120, MAX_SHARE))
    prepared = prepare(flag(steps, bucketing=version))
    counts = [len(moved(prepared, START + at)) for at in (-1, -0.01, 0, 59, 59.99, 60, 119.9, 120)]
    assert counts[:2] == [0, 0]
    assert counts[2] == counts[3] == counts[4] != 0
    assert counts[5] == counts[6] == pytest.approx(500, abs=40)
    assert counts[7] == 1_000


@pytest.mark.parametrize("context", [{}, {"targetingKey": ""}, {"targetingKey": 7}, {"targetingKey": ["a"]}])
def test_callers_without_a_key_stay_also_once_all_others_have_moved(context: dict[str, object]) -> None:
    prepared = prepare(flag(rollout(Point(START, MAX_SHARE))))
    found = prepared.evaluate(context, AFTER)
    assert (found.variant, found.reason) == ("off", Reason.TARGETING_MATCH)


def test_another_field_may_say_who_moves_first() -> None:
    prepared = prepare(flag(rollout(Point(START, 50_000), bucket_by="company.id")))
    of = {c: prepared.evaluate({"targetingKey": p, "company": {"id": c}}, AFTER) for c in PEOPLE[:20] for p in PEOPLE}
    assert {found.variant for found in of.values()} == {"on", "off"}
    assert prepared.evaluate({"targetingKey": "user-1"}, AFTER).variant == "off"


def test_targeting_decides_first_and_the_rollout_where_it_gives_null() -> None:
    rule = text({"if": [{"==": [{"var": "plan"}, "pro"]}, "on", {"==": [{"var": "plan"}, "old"]}, "off"]})
    prepared = prepare(flag(rollout(Point(START, 50_000)), targeting=rule))
    half = moved(prepared, AFTER)
    assert 400 < len(half) < 600
    for key in PEOPLE[:50]:
        assert prepared.evaluate({"targetingKey": key, "plan": "pro"}, AFTER).variant == "on"
        assert prepared.evaluate({"targetingKey": key, "plan": "old"}, AFTER).variant == "off"
    assert moved(flag(rollout(Point(START, 50_000)), targeting="null"), AFTER) == half
    assert moved(flag(rollout(Point(START, 50_000)), targeting="{}"), AFTER) == half


def test_a_result_of_false_is_a_result() -> None:
    variants = {"true": 1, "false": 0}
    moves = Rollout(from_variant="false", to_variant="true", points=(Point(START, MAX_SHARE),))
    prepared = prepare(flag(moves, variants=variants, targeting=text({"==": [{"var": "a"}, 1]})))
    assert prepared.evaluate({"targetingKey": "x", "a": 2}, AFTER).value == 0


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.BETA, Reason.TARGETING_MATCH),
        (Status.DISABLED, Reason.DISABLED),
        (Status.DEPRECATED, Reason.DISABLED),
    ],
)
def test_the_status_decides_as_for_any_rule(status: Status, reason: Reason) -> None:
    prepared = prepare(flag(rollout(Point(START, MAX_SHARE)), status=status))
    found = prepared.fixed or prepared.evaluate({"targetingKey": "x"}, AFTER)
    assert found.reason is reason


def test_a_malformed_rollout_is_an_error_of_its_flag() -> None:
    broken = flag(rollout(Point(START, MAX_SHARE)), variants={"a": 1, "b": 2})
    found = prepare(broken)
    assert found.fixed is not None
    assert found.fixed.error_code is ErrorCode.PARSE_ERROR
    assert "flag.rollout.from is 'off'; it must be one of the flag's variants: a, b" in found.fixed.message


def test_an_explanation_names_the_rollout() -> None:
    outcome, explanation = explain(flag(rollout(*WEEK, linear=True)), {"targetingKey": "user-7"}, AFTER)
    assert outcome.variant == "on"
    assert explanation.summary == "The rollout chose variant 'on'"
    assert explanation.steps[0].path[:2] == ("rollout", "if")


def shares() -> st.SearchStrategy[int]:
    return st.integers(0, MAX_SHARE) | st.sampled_from([0, 1, 1_000, MAX_SHARE - 1, MAX_SHARE])


@st.composite
def rollouts(draw: st.DrawFn, *, up: bool = False) -> Rollout:
    """Any rollout; `up`: one whose share never falls."""
    gaps = draw(st.lists(st.integers(1, 3_000) | st.integers(1, 400 * DAY), min_size=1, max_size=8))
    found = [draw(shares()) for _ in gaps]
    start = draw(st.just(0) | shares())
    if up:
        start, *found = sorted([start, *found])
    times = [START + sum(gaps[:number]) for number in range(len(gaps))]
    points = (Point(time, share) for time, share in zip(times, found, strict=True))
    return rollout(*points, linear=draw(st.booleans()), start_share=start)


def moments(of: Rollout) -> st.SearchStrategy[int]:
    first, last = of.points[0].time, of.points[-1].time
    near = [point.time + by for point in of.points for by in (-1, 0, 1)]
    return st.integers(first - 10, last + 10) | st.sampled_from(near)


@given(st.data())
def test_the_share_never_falls_while_its_points_rise(data: st.DataObject) -> None:
    of = data.draw(rollouts(up=True))
    some = sorted(data.draw(st.lists(moments(of), min_size=2, max_size=8)))
    found = [share_at(of, at) for at in some]
    assert found == sorted(found)


@given(st.data())
def test_a_share_is_near_the_line_between_its_points_and_never_past_them(data: st.DataObject) -> None:
    of = data.draw(rollouts())
    at = data.draw(moments(of))
    share = share_at(of, at) * MAX_SHARE
    earlier = [point for point in of.points if point.time <= at]
    later = [point for point in of.points if point.time > at]
    if not earlier:
        assert share == of.start_share
    elif not later or not of.linear:
        assert share == earlier[-1].share
    else:
        (t0, low), (t1, high) = earlier[-1], later[0]
        assert min(low, high) <= share <= max(low, high)
        exact = low + Fraction((high - low) * (at - t0), t1 - t0)
        slow = Fraction((t1 - t0) * MAX_SHARE, max(1, abs(high - low))) > MAX_TOTAL - 1_000
        assert abs(share - exact) <= (max(1, Fraction(abs(high - low), 25)) if slow else 2)


@given(rollouts())
def test_weights_are_what_every_engine_takes(of: Rollout) -> None:
    pieces = pieces_of(of)
    assert len(pieces) <= MAX_PIECES + 2
    ends = [*[piece.start for piece in pieces[1:]], of.points[-1].time + 1]
    for piece, end in zip(pieces, ends, strict=True):
        assert 0 < piece.total <= MAX_TOTAL
        assert end is not None
        for at in (piece.start or START - 1, end - 1):
            assert 0 <= piece.at(at) <= 1


def test_the_next_step() -> None:
    steps = rollout(Point(START, 1_000), Point(START + 60, 1_000), Point(START + 120, 5_000))
    found = [next_step(steps, at) for at in (START - 5, START, START + 60, START + 119.9, START + 120)]
    assert found == [START, START + 120, START + 120, START + 120, None]
    assert next_step(rollout(*WEEK, linear=True, paused_at=START + 5), START + 6) is None


def test_clients_that_hold_values_hear_of_each_percent_at_most_once_a_minute() -> None:
    def heard(of: Rollout) -> list[int]:
        found, at = list[int](), START - 100
        while (step := next_visible_step(of, at)) is not None:
            assert step > at
            found.append(step - START)
            at = step
        return found

    percents = heard(rollout(*WEEK, linear=True))
    assert len(percents) == 101
    assert [7 * DAY * number // 100 for number in range(101)] == pytest.approx(percents, abs=1)
    assert heard(rollout(Point(START, 0), Point(START + 150, MAX_SHARE), linear=True)) == [0, 60, 120, 150]
    assert heard(rollout(Point(START, 1_000), Point(START + 5, 2_000), Point(START + 9, 2_000))) == [0, 5]
    assert heard(rollout(*WEEK, linear=True, paused_at=START + 5)) == []


def test_the_rollout_of_the_documents_moves_everybody_in_three_days() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()
    [block] = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown = rollout_of(json.loads(block), {"on": True, "off": False})
    begin, end = shown.points[0].time, shown.points[-1].time
    assert end - begin == 3 * DAY
    assert [share_at(shown, at) for at in (begin, end)] == [0, 1]
