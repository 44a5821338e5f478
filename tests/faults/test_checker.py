"""The checker finds exactly the promise about answers that is broken in a record made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.answers import STALE
from tests.faults.checker import check
from tests.faults.handmade import FLAG, FOREIGN, PASSING, Handmade, broken, old, only
from tests.faults.record import NEVER, TOKEN, Record


def test_a_run_without_errors_breaks_nothing(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10, applied_by=["host-0"], lagging=["host-1"], reached=2)
    made.see(FLAG, 10.05, took=0.1, **before)  # asked while the write was in progress
    made.see(FLAG, 10.2)
    made.see(FLAG, 10.2, on=1, **before)  # another replica, within the bound
    made.see(FLAG, 30, on=1, reason=STALE, **before)  # reports so
    made.fault(10, 40)
    made.write("toggle", FLAG, 50, enabled=False)
    made.see(FLAG, 51)
    made.see(FLAG, 52, on=1)
    made.see(FLAG, 52, kind=TOKEN, token=3)
    assert broken(made).kept


def test_flags_are_created_and_deleted(made: Handmade) -> None:
    made.see_absent(PASSING, 5)
    made.write("create", PASSING, 10)
    made.see(PASSING, 11)
    made.write("delete", PASSING, 20)
    made.see_absent(PASSING, 21)
    made.see_absent(PASSING, 21, revision=made.revision)
    made.see_absent(PASSING, 22)
    made.write("create", PASSING, 30)
    made.see(PASSING, 31)
    assert broken(made).kept


def test_foreign_changes_are_identified_by_their_values(made: Handmade) -> None:
    made.foreign("insert", FOREIGN, 5)
    made.see(FOREIGN, 5.5, revision=0)
    made.see(FOREIGN, 6)
    made.foreign("update", FLAG, 10)
    made.see(FLAG, 11)
    made.see(FLAG, 11, on=1)
    made.write("toggle", FLAG, 20, enabled=True)
    made.see(FLAG, 21)
    made.foreign("update", FLAG, 30, numbered=False)
    made.see(FLAG, 30.1)  # the same revision, another value
    made.write("toggle", FLAG, 31, enabled=True)
    made.foreign("delete", FOREIGN, 40)
    made.see_absent(FOREIGN, 41)
    assert broken(made).kept


def test_p1_an_answer_older_than_a_write_acknowledged_by_the_same_replica(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10)
    made.see(FLAG, 10.2, **before)
    text = only("P1", made)
    assert FLAG in text
    assert "replica 0" in text
    assert "write 2 (update)" in text


def test_p1_applies_to_stale_answers_too(made: Handmade) -> None:
    before = old(made)
    made.fault(9, 12)
    made.write("update", FLAG, 10)
    made.see(FLAG, 10.2, reason=STALE, **before)
    assert "redis stall" in only("P1", made)


def test_p1_does_not_apply_after_a_restart(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10)
    made.see(FLAG, 10.2, on=1, **before)
    assert broken(made).kept


def test_p2_an_answer_older_than_a_write_that_the_replica_was_reported_to_have_applied(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10, reached=3, applied_by=["host-0", "host-1"])
    made.see(FLAG, 10.2, on=1, **before)
    only("P2", made)


def test_p2_a_reported_replica_that_never_existed(made: Handmade) -> None:
    made.write("update", FLAG, 10, reached=3, applied_by=["host-0", "host-7"])
    assert "host-7" in only("P2", made)


def test_p2_a_replica_that_died_before_its_name_was_known_is_identified_by_its_process_id(made: Handmade) -> None:
    made.story.incarnations[1].name = ""
    made.write("update", FLAG, 10, reached=3, applied_by=["host-0", "machine:101:abc"])
    assert broken(made).kept


def test_p2_applied_everywhere_although_a_replica_lags(made: Handmade) -> None:
    made.write("update", FLAG, 10, reached=3, applied_by=["host-0"], lagging=["host-1"])
    assert "host-1" in only("P2", made)


def test_p3_an_answer_older_than_the_bound(made: Handmade) -> None:
    before = old(made)
    write = made.write("update", FLAG, 10)
    made.see(FLAG, write.end + 5.05, on=1, **before)
    assert broken(made).kept
    made.see(FLAG, write.end + 5.15, on=1, **before)
    assert "known since 10.100 s" in only("P3", made)


def test_p3_a_write_whose_answer_was_lost_counts_from_when_it_was_seen(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10, acknowledged=False, end=NEVER)
    made.see(FLAG, 20)
    made.see(FLAG, 25, on=1, **before)
    assert broken(made).kept
    made.see(FLAG, 25.2, on=1, **before)
    only("P3", made)


def test_p3_of_a_deleted_flag(made: Handmade) -> None:
    made.write("create", PASSING, 5)
    made.see(PASSING, 6, on=1)
    there = {"revision": 2, "value": 2, "status": 1, "reason": 1, "error": 0}
    made.write("delete", PASSING, 10)
    made.see(PASSING, 16, on=1, **there)
    only("P3", made)


def test_p3_of_a_flag_that_was_created_again(made: Handmade) -> None:
    made.write("create", PASSING, 5)
    made.write("delete", PASSING, 10)
    made.write("create", PASSING, 20)
    made.see_absent(PASSING, 24, on=1)
    assert broken(made).kept
    made.see_absent(PASSING, 27, on=1)
    only("P3", made)


def test_p3_a_write_that_nobody_saw_counts_from_when_a_newer_one_was_known(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10, acknowledged=False, end=NEVER)
    made.write("update", FLAG, 11)
    made.see(FLAG, 16.1, on=1, **before)
    assert broken(made).kept
    made.see(FLAG, 16.3, on=1, **before)
    only("P3", made)


def test_p3_an_answer_without_the_flag_shows_its_staleness_by_its_age(made: Handmade) -> None:
    made.fault(5, 25)
    made.write("create", PASSING, 5)
    made.see_absent(PASSING, 12, on=1, age_ms=7_000)
    made.write("delete", PASSING, 13)
    made.write("create", PASSING, 14)
    made.see_absent(PASSING, 22, on=1, age_ms=8_000)
    assert broken(made).kept
    made.see_absent(PASSING, 22, on=1, age_ms=4_900)
    only("P3", made)


def test_p3_of_a_foreign_change(made: Handmade) -> None:
    before = old(made)
    made.fault(9, 20)
    made.foreign("update", FLAG, 10)
    made.see(FLAG, 15.5, on=1, **before)
    only("P3", made)


def test_p4_an_answer_older_than_its_token(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10)
    made.see(FLAG, 10.2, on=1, kind=TOKEN, token=2, **before)
    only("P4", made)


def test_p5_an_older_revision_after_a_newer_one(made: Handmade) -> None:
    before = old(made)
    made.write("update", FLAG, 10)
    made.see(FLAG, 11, on=1)
    made.see(FLAG, 11, on=1, took=0.5, **before)  # at the same time: their order is unknown
    made.see(FLAG, 12, on=1, reason=STALE, **before)
    made.fault(9, 20)
    only("P5", made)


def test_p5_a_flag_that_comes_back(made: Handmade) -> None:
    made.write("create", PASSING, 5)
    made.see(PASSING, 6, on=1)
    there = {"revision": 2, "value": 2, "status": 1, "reason": 1, "error": 0}
    made.write("delete", PASSING, 10)
    made.see_absent(PASSING, 11, on=1)
    made.see(PASSING, 12, on=1, **there)
    only("P5", made)


def test_p5_the_same_content_under_a_smaller_revision(made: Handmade) -> None:
    made.foreign("insert", FOREIGN, 5)
    made.see(FOREIGN, 6)
    made.see(FOREIGN, 7, revision=0)
    only("P5", made)


def test_p7_a_foreign_change_in_calm_times(made: Handmade) -> None:
    before = old(made)
    made.fault(1.5, 7.9)
    change = made.foreign("update", FLAG, 10)
    made.see(FLAG, change.end + 0.95, on=1, **before)
    assert broken(made).kept
    made.see(FLAG, change.end + 1.05, on=1, **before)
    only("P7", made)


def test_p7_excludes_time_in_which_no_replica_got_a_cpu(made: Handmade) -> None:
    before = old(made)
    made.fault(1.5, 7.9)
    change = made.foreign("update", FLAG, 10)
    made.story.incarnations[0].starved.append([10.1, 10.2, 0.08])
    made.see(FLAG, change.end + 1.05, on=1, **before)
    assert broken(made).kept
    made.see(FLAG, change.end + 1.15, on=1, **before)
    only("P7", made)


def test_p7_does_not_apply_during_a_fault(made: Handmade) -> None:
    before = old(made)
    made.fault(5, 8.5)
    change = made.foreign("update", FLAG, 10)
    made.see(FLAG, change.end + 1.05, on=1, **before)
    assert broken(made).kept


def test_a_foreign_change_whose_answer_was_lost_takes_its_place_from_where_it_was_seen(made: Handmade) -> None:
    change = made.foreign("update", FLAG, 10)
    change.done, change.base, change.end = None, 0, NEVER
    made.see(FLAG, 11)
    made.see(FLAG, 11.5, on=1)
    made.write("toggle", FLAG, 20, enabled=True)
    made.see(FLAG, 21)
    assert broken(made).kept


def test_a_lost_foreign_change_after_one_that_got_a_revision(made: Handmade) -> None:
    made.foreign("update", FLAG, 10)
    made.see(FLAG, 11)
    lost = made.foreign("update", FLAG, 20, numbered=False)
    lost.done, lost.base, lost.end = None, 0, NEVER
    made.see(FLAG, 21)  # the revision of the one before
    made.foreign("update", FLAG, 30, numbered=False)
    made.see(FLAG, 31)
    made.write("toggle", FLAG, 40, enabled=True)
    assert broken(made).kept


def test_a_lost_foreign_change_of_a_flag_that_was_off(made: Handmade) -> None:
    made.write("toggle", FLAG, 5, enabled=False)
    lost = made.foreign("update", FLAG, 10, numbered=False)
    lost.done, lost.base, lost.end = None, 0, NEVER
    made.see(FLAG, 11)
    made.write("toggle", FLAG, 20, enabled=True)
    made.see(FLAG, 21)
    assert broken(made).kept


def test_staleness_counts_from_the_answer_to_the_end_of_the_last_old_one(made: Handmade) -> None:
    before = old(made)
    made.fault(11, 12, "redis cut")
    write = made.write("update", FLAG, 10)
    made.see(FLAG, 11.5, on=1, **before)
    made.see(FLAG, 14, on=1, reason=STALE, **before)
    made.see(FLAG, 14.5, on=1)
    made.see(FLAG, 14.5)
    by_kind = broken(made).staleness.by_kind()
    count, _, unsaid, worst = by_kind["redis cut"]
    assert count == 1
    assert unsaid == pytest.approx(11.51 - write.end)
    assert worst == pytest.approx(14.01 - write.end)
    assert by_kind["no fault"][0] == 3


def test_a_record_can_be_saved_and_judged_again(made: Handmade, tmp_path: Path) -> None:
    before = old(made)
    made.write("update", FLAG, 10)
    made.see(FLAG, 10.2, **before)
    made.done().save(tmp_path / "record.npz")
    again = Record.load(tmp_path / "record.npz")
    assert dict(check(again).counts) == {"P1": 1}
    assert again.story == made.story
