"""The checker on P15: planned changes, rollouts and kept revisions in handmade records with one error each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.exact_time import CLOCK_S, ON_TIME_S
from tests.faults.handmade import FLAG, Handmade, broken, only
from tests.faults.record import Record


def test_plans_that_are_kept_late_in_a_fault_or_ended_otherwise_break_nothing(made: Handmade) -> None:
    made.plan(10, 12)
    made.plan(10, 12)
    made.plan(10, 12, state="FAILED")
    made.plan(10, 12, state="MISSED", late=61)
    made.plan(10, 12, state="CANCELLED", late=-1)["endedAt"] = made.story.ending.schedules[0]["endedAt"]
    made.fault(13, 20)
    made.plan(10, 14, late=8)
    verdict = broken(made)
    assert verdict.kept, verdict.explained
    assert verdict.lateness.states == {"EXECUTED": 3, "FAILED": 1, "MISSED": 1, "CANCELLED": 1}
    assert [(round(each.seconds, 2), each.in_fault) for each in verdict.lateness.late] == [
        (0.05, False),
        (0.05, False),
        (8.0, True),
    ]


def test_a_plan_that_was_executed_twice(made: Handmade) -> None:
    schedule = made.plan(10, 12)
    row = made.story.ending.history[-1]
    made.execute(schedule, 2)
    row["reason"] = ""
    assert "stands in the history 2 times" in only("P15", made, 2)  # and one of them is not the schedule's


@pytest.mark.parametrize(
    ("state", "late", "wrong", "words"),
    [
        ("EXECUTED", -0.2, {}, "EXECUTED 0.200 s before its time"),
        ("MISSED", -0.2, {}, "MISSED 0.200 s before its time"),
        ("MISSED", 59, {}, "it was 59.000 s late, and is MISSED"),
        ("EXECUTED", ON_TIME_S + 1, {}, "late although all was well"),
        ("HELD", 0.1, {"flagKey": "planned-00"}, "only plans change the flag"),
        ("EXECUTED", 0.1, {"state": "FAILED"}, "it is FAILED, and stands in the history 1 times"),
        ("FAILED", 0.1, {"state": "EXECUTED"}, "it is EXECUTED, and stands in the history 0 times"),
        ("PENDING", 0.1, {}, "it was never executed"),
        ("EXECUTED", 0.1, {"executedRevision": 9}, "the history says 2"),
        ("EXECUTED", 0.1, {"_id": "other"}, "it was answered as s2"),
        ("EXECUTED", 0.1, {"reason": "write 99"}, "which is not there"),
    ],
)
def test_a_plan_that_ended_wrongly(made: Handmade, state: str, late: float, wrong: dict[str, Any], words: str) -> None:
    schedule = made.plan(10, 12, state=state, late=late)
    if state == "HELD":
        made.story.plans[0].flag = wrong["flagKey"]
    if "MISSED" in words and "before" in words:
        made.story.plans[0].max_lateness_s = -1
    schedule |= wrong
    verdict = broken(made)
    assert set(verdict.counts) == {"P15"}
    assert any(words in text for text in verdict.explained["P15"]), verdict.explained


def test_a_plan_that_failed_in_silence(made: Handmade) -> None:
    made.plan(10, 12, state="FAILED")
    made.story.ending.audit.clear()
    assert "its audit entry is there 0 times" in only("P15", made)


def test_a_plan_that_was_executed_before_an_earlier_one(made: Handmade) -> None:
    made.plan(10, 13, late=0.1)
    made.plan(10, 12, late=1.1)
    assert "which was due before it" in only("P15", made)


def test_a_value_that_was_answered_before_its_time(made: Handmade) -> None:
    made.plan(10, 12)
    made.see(FLAG, 12 - 2 * CLOCK_S)
    assert "answered 0.190 s before its time" in only("P15", made)


def test_a_value_of_which_the_plan_had_no_answer_breaks_nothing(made: Handmade) -> None:
    made.plan(10, 12)
    made.story.plans[0].id = ""
    made.see(FLAG, 12.1)
    assert broken(made).kept


def test_a_caller_who_moves_back(made: Handmade) -> None:
    made.moved(10, 5)
    made.moved(11, 5, moved=False)
    assert "user 1 of rollout-0 went back on replica 0" in only("P15", made)


@pytest.mark.parametrize("skewed", [-1, 0])
def test_a_caller_who_moves_back_by_an_edit_made_after_he_had_moved(made: Handmade, skewed: int) -> None:
    """On a replica with another clock an edit may move callers back."""
    made.story.skewed = skewed
    made.moved(10, 5)
    made.edit(11, 6)
    made.moved(12, 6, moved=False)
    assert broken(made).counts == ({} if skewed == 0 else {"P15": 1})


def test_a_caller_who_moves_ahead_or_back_on_another_replica_or_by_an_edit_under_way_breaks_nothing(
    made: Handmade,
) -> None:
    made.moved(9, 5, moved=False)
    made.moved(10, 5)
    made.moved(10.5, 5, moved=False, on=1)
    made.edit(9.9, 6)  # he moved while it was made
    made.moved(12, 6, moved=False)
    assert broken(made).kept


def test_a_caller_who_has_not_moved_at_the_end(made: Handmade) -> None:
    rollout = {"points": [{"time": "1970-01-01T00:00:10Z", "share": 100}]}
    made.moved(10.5, 5, moved=False)
    made.moved(12, 5, moved=False)
    record = made.done()
    record.story.ending.documents.append({"key": "rollout-0", "revision": 5, "rollout": rollout})
    made.done = lambda: record  # type: ignore[method-assign]
    assert "had the old variant 2.000 s after the end" in only("P15", made)


@pytest.mark.parametrize("wrong", [{"value": 7}, {"status": 2}, {"gone": True}])
def test_a_revision_of_which_something_else_is_kept(made: Handmade, wrong: dict[str, Any]) -> None:
    made.see(FLAG, 5)
    row: dict[str, Any] = {"key": FLAG, "revision": 1, "gone": False, "status": 1, "value": 1}
    made.story.ending.definitions = [row]
    assert broken(made).kept
    made.story.ending.definitions = [{"key": FLAG, "revision": 1, **wrong} if "gone" in wrong else row | wrong]
    assert "revision 1 was answered as 1, 1" in only("P15", made)


def test_a_record_from_before_there_were_plans_is_read(made: Handmade, tmp_path: Path) -> None:
    made.plan(10, 12)
    made.done().save(tmp_path / "new.npz")
    assert Record.load(tmp_path / "new.npz").story == made.story
    with np.load(tmp_path / "new.npz") as saved:
        text = str(saved["story"]).replace('"plans"', '"_plans"').replace('"moved"', '"_moved"')
        np.savez_compressed(tmp_path / "old.npz", rows=saved["rows"], story=np.array(text))
    old = Record.load(tmp_path / "old.npz").story
    assert (old.plans, old.moved) == ([], [])
