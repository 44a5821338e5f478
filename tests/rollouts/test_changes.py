"""Edits, pauses and rollbacks: each begins at the share that stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import InvalidRequest, RolloutMissing
from flagsvc.core.evaluation import prepare, read_rollout
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import (
    MAX_SHARE,
    Point,
    Rollout,
    continued,
    paused,
    resumed,
    rolled_back,
    share_at,
    to_json,
)
from tests.rollouts.moments import DAY, START, WEEK, flag, moved, rollout
from tests.rollouts.test_shares import moments, rollouts

LINE = rollout(*WEEK, linear=True)
NOON = START + DAY // 2


def author(at: float) -> Author:
    return Author(datetime.fromtimestamp(at, UTC))


def changed(before: Flag, wanted: Rollout, at: float) -> Flag:
    """Return the flag after an update of its rollout at a moment."""
    decide = changes.update(replace(before, rollout=to_json(wanted)), ["rollout"], None, author(at))
    after = decide(before).after  # type: ignore[union-attr]  # an update is a change
    assert after is not None
    return after


def test_a_day_of_edits_pauses_and_resumes_moves_nobody_back() -> None:
    current, before = flag(LINE), set[str]()
    faster = rollout(Point(START, 0), Point(START + 3 * DAY, 40_000), Point(START + 4 * DAY, MAX_SHARE), linear=True)
    steps = rollout(Point(START + 2 * DAY, 1_000), Point(START + 3 * DAY, 90_000))
    plan = {
        5: lambda at: changed(current, faster, at),
        8: lambda at: _by(current, paused, at),
        11: lambda at: _by(current, resumed, at),
        13: lambda at: changed(current, steps, at),
        16: lambda at: changed(current, replace(faster, points=(Point(START + 9 * DAY, MAX_SHARE),)), at),
    }
    for number in range(21):
        at = START + number * DAY // 4
        if number in plan:
            current = plan[number](at)
        now = moved(current, at)
        assert before <= now, f"moment {number}"
        before = now
    assert 0 < len(before) < 1_000


def _by(current: Flag, change: object, at: float) -> Flag:
    decide = changes.change_rollout(current.key, change, None, author(at))  # type: ignore[arg-type]
    after = decide(current).after  # type: ignore[union-attr]
    assert after is not None
    return after


def copied(before: Flag, wanted: Rollout, at: float) -> list[Flag]:
    """Return the flag after a rollback to a revision with a rollout, and after an import of it; the same twice."""
    past, found = replace(before, rollout=to_json(wanted)), []
    for decide in (changes.restore(past, None, author(at)), changes.put(past, author(at))):
        change = decide(before)
        after = before if change is None else change.after
        assert after is not None
        again = changes.put(past, author(at + 60))(after)
        assert again is None, "what is imported twice is written once"
        found.append(after)
    return found


PAST = (
    LINE,
    paused(LINE, START + DAY),
    rollout(Point(START, 1_000), Point(START + 4 * DAY, 50_000), Point(START + 6 * DAY, MAX_SHARE)),
    rollout(Point(START + 3 * DAY, 20_000), Point(START + 4 * DAY, 50_000), linear=True),
    rolled_back(LINE, START + DAY),
)


@pytest.mark.parametrize("past", PAST)
@pytest.mark.parametrize("now", [paused(LINE, START + DAY * 2), rollout(*WEEK, linear=True, start_share=1), *PAST])
def test_a_flag_that_is_rolled_back_or_imported_moves_nobody_back(past: Rollout, now: Rollout) -> None:
    before, at = flag(now), START + 2.5 * DAY
    standing, rounded = share_at(now, at), 1 / MAX_SHARE
    for after in copied(before, past, at):
        assert standing <= share_at(read_rollout(after), at) <= max(standing + rounded, share_at(past, at) + rounded)
        end = START + 30 * DAY
        assert share_at(read_rollout(after), end) >= share_at(past, end), "then it goes on as it was planned"


def test_another_rollout_that_is_restored_is_as_it_was() -> None:
    before = flag(LINE)
    for past in (rollout(Point(START, 5), bucket_by="company"), None):
        was = replace(before, rollout=None if past is None else to_json(past))
        for decide in (changes.restore(was, None, author(NOON)), changes.put(was, author(NOON))):
            after = decide(before).after  # type: ignore[union-attr]  # both differ
            assert after is not None
            assert after.rollout == was.rollout


def test_a_pause_keeps_exactly_those_who_moved_and_resuming_goes_on_from_there() -> None:
    held = paused(LINE, NOON)
    for at in (NOON - 1, NOON, NOON + 99 * DAY):
        assert share_at(held, at) == share_at(LINE, NOON)
    assert paused(held, NOON + 5) == held
    again = resumed(held, NOON + 3 * DAY)
    assert again.paused_at is None
    assert [share_at(again, NOON + 3 * DAY + by) for by in (0, 60, 7 * DAY)] == [
        share_at(LINE, NOON + by) for by in (0, 60, 7 * DAY)
    ]
    assert resumed(LINE, NOON) == LINE


def test_a_rollback_moves_back_last_in_first_out() -> None:
    at, rounded_s = START + 2 * DAY, 60
    up, back = prepare(flag(LINE)), prepare(flag(rolled_back(LINE, at)))
    assert moved(back, at) == moved(up, at)
    for number in range(1, 9):
        since = number * 6 * 3_600
        left = moved(back, at + since)
        assert moved(up, at - since - rounded_s) <= left <= moved(up, at - since + rounded_s), "who came last is gone"
    assert moved(back, at + 2 * DAY) == set()


def test_a_rollback_of_steps_undoes_the_last_at_once_and_the_others_as_long_after_it() -> None:
    steps = rollout(Point(START, 1_000), Point(START + 3_600, 10_000), Point(START + DAY, MAX_SHARE))
    back = rolled_back(steps, START + 3 * DAY)
    assert back.points == (
        Point(START + 3 * DAY, 10_000),
        Point(START + 3 * DAY + DAY - 3_600, 1_000),
        Point(START + 4 * DAY, 0),
    )
    assert rolled_back(steps, START + 3 * DAY, 0).points == (Point(START + 3 * DAY, 0),)
    assert rolled_back(steps, START - 5).points == (Point(START - 5, 0),)
    evenly = rolled_back(steps, START + 60, 600)
    assert evenly.linear
    assert evenly.points == (Point(START + 60, 1_000), Point(START + 660, 0))


@given(st.data())
def test_no_change_moves_anybody_back_at_its_moment(data: st.DataObject) -> None:
    before, wanted = data.draw(rollouts()), data.draw(rollouts())
    if data.draw(st.booleans()):
        before = paused(before, data.draw(moments(before)))
    at = data.draw(moments(before))
    standing = share_at(before, at)
    for after in (continued(wanted, before, at), paused(before, at), resumed(before, at)):
        assert share_at(after, at) >= standing
    assert share_at(resumed(paused(before, at), at + 500), at + 500) == standing
    seconds = data.draw(st.none() | st.integers(1, 500))
    back = rolled_back(before, at, seconds)
    times = [point.time for point in back.points]
    assert times == sorted(set(times))
    assert share_at(back, times[-1] + 1) == 0
    found = [share_at(back, time) for time in (at, *times)]
    assert found == sorted(found, reverse=True)
    assert share_at(back, at) <= standing + 1 / MAX_SHARE


def test_an_edit_says_what_stands_to_replicas_whose_clocks_are_behind() -> None:
    wanted = rollout(Point(START + 3 * DAY, MAX_SHARE))
    after = continued(wanted, LINE, START + 2 * DAY)
    assert share_at(after, START + 2 * DAY - 1) >= share_at(LINE, START + 2 * DAY)
    assert after.start_share == 28_572


@pytest.mark.parametrize("fields", [{"to_variant": "off", "from_variant": "on"}, {"bucket_by": "company"}])
def test_who_moves_where_stays_while_a_rollout_is_under_way(fields: dict[str, str]) -> None:
    other = replace(LINE, **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        continued(other, LINE, NOON)
    assert "while the rollout is under way (7.143 % have moved)" in str(refused.value)
    assert continued(other, LINE, START - 5) == other
    assert continued(other, LINE, START + 8 * DAY) == other


def test_a_change_of_what_is_not_there() -> None:
    with pytest.raises(RolloutMissing):
        _by(flag(LINE, rollout=None), paused, NOON)
