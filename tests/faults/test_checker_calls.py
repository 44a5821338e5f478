"""The checker on calls: failures, slow calls, leaks in texts, and the state at the end."""

from __future__ import annotations

import pytest

from tests.faults.answers import STALE
from tests.faults.handmade import FLAG, PASSING, Handmade, broken, only
from tests.faults.poison import STRANGERS
from tests.faults.record import TOKEN


def test_p4_a_token_may_be_refused_during_a_fault_only(made: Handmade) -> None:
    made.fault(10, 20)
    made.fail("token", 11, "UNAVAILABLE", "REVISION_UNAVAILABLE")
    made.fail("token", 12, "DEADLINE_EXCEEDED", "")
    made.fail("token", 25, "UNAVAILABLE", "STORE_UNAVAILABLE")
    assert broken(made).kept
    made.fail("token", 30, "UNAVAILABLE", "STORE_UNAVAILABLE")
    made.fail("token", 12, "INTERNAL", "INTERNAL")
    only("P4", made, 2)


def test_p6_an_evaluation_fails(made: Handmade) -> None:
    made.fail("evaluate", 10, "UNAVAILABLE", "STORE_UNAVAILABLE")
    only("P6", made)


def test_p6_does_not_apply_to_a_replica_that_is_down_or_frozen(made: Handmade) -> None:
    process = made.story.incarnations[0]
    process.pauses.append([10.0, 12.0])
    process.ended = 20.0
    made.fail("evaluate", 9, "DEADLINE_EXCEEDED", "", took=1.5)
    made.fail("batch", 19.5, "UNAVAILABLE", "", took=1)
    made.see(FLAG, 10, took=2.1)
    assert broken(made).kept
    made.fail("batch", 13, "UNAVAILABLE", "SERVER_STOPPING")
    only("P6", made)


def test_p6_an_evaluation_takes_too_long(made: Handmade) -> None:
    made.see(FLAG, 10, took=1.2)
    made.see(FLAG, 20, took=3, kind=TOKEN, token=1)
    assert "1.20 s" in only("P6", made)


def test_p6_excludes_time_in_which_the_clients_did_not_run(made: Handmade) -> None:
    made.see(FLAG, 10, took=1.2)
    made.story.lags.append([10.5, 10.9])
    assert broken(made).kept


def test_p6_excludes_time_in_which_the_replica_got_no_cpu(made: Handmade) -> None:
    made.see(FLAG, 10, took=1.2)
    made.story.incarnations[1].starved.append([10.5, 10.6, 0.09])
    made.story.incarnations[0].starved += [[9.8, 9.9, 0.1], [10.5, 10.6, 0.09], [10.6, 10.7, 0.05]]
    assert "1.06 s" in only("P6", made)
    made.story.incarnations[0].starved.append([11.1, 11.2, 0.07])
    assert broken(made).kept


def test_p6_a_ready_replica_reports_not_ready(made: Handmade) -> None:
    made.see(FLAG, 10, error=6, reason=8, revision=0, status=0)
    assert "PROVIDER_NOT_READY" in only("P6", made)


def test_p6_a_known_flag_is_reported_missing(made: Handmade) -> None:
    made.write("create", PASSING, 2)
    made.see_absent(PASSING, 7.15, on=1)
    assert broken(made).kept
    made.see_absent(PASSING, 7.25, on=1)
    assert "always was" in only("P6", made)


def test_p6_a_value_of_another_revision(made: Handmade) -> None:
    made.write("update", FLAG, 10)
    made.see(FLAG, 11, revision=1)
    only("P6", made)


def test_p6_a_process_that_never_becomes_ready(made: Handmade) -> None:
    made.story.incarnations[1].ready = 20.0
    only("P6", made)


def test_p6_a_process_that_ends_by_itself(made: Handmade) -> None:
    made.story.incarnations[1].crashed = True
    only("P6", made)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:27017 refused", "mongodb://here", "at localhost", "Traceback (most recent"]
)
def test_p10_a_text_leaks_details(made: Handmade, text: str) -> None:
    made.story.texts["all is well"] = 3
    made.fault(9, 11)
    made.fail("toggle", 10, "UNAVAILABLE", "STORE_UNAVAILABLE", text=text)
    only("P10", made)
    made.story.texts[text] = 1
    only("P10", made, 2)


def test_p10_a_failed_call_without_error_info(made: Handmade) -> None:
    made.fail("toggle", 10, "UNKNOWN", "", text="Exception calling application")
    only("P10", made)


def test_p11_an_answer_shows_another_stores_value(made: Handmade) -> None:
    made.see(FLAG, 10, value=STRANGERS + 7)
    assert "another store's content" in only("P11", made)


def test_p11_the_second_deployment_answers_wrongly(made: Handmade) -> None:
    made.story.neighbour_wrong.append("plain-0 has value 3 there instead of [1000000007]")
    assert "instead of" in only("P11", made)


def test_end_a_replica_does_not_recover(made: Handmade) -> None:
    made.story.ending.recovered_s = {"replica 0": 1.0, "replica 1": 5.2}
    assert "replica 1" in only("END", made)


def test_end_redis_disagrees(made: Handmade) -> None:
    made.story.ending.drifted = 2
    only("END", made)


def test_end_a_foreign_change_never_got_a_revision(made: Handmade) -> None:
    made.foreign("update", FLAG, 10, numbered=False)
    assert "still has the revision 1" in only("END", made)


def test_end_stale_although_no_fault_is_active(made: Handmade) -> None:
    made.fault(10, 20)
    made.see(FLAG, 25, reason=STALE)
    assert broken(made).kept
    made.see(FLAG, 26.5, reason=STALE)
    only("END", made)


def test_end_a_write_is_refused_although_no_fault_is_active(made: Handmade) -> None:
    made.fault(10, 20)
    made.fail("toggle", 15, "UNAVAILABLE", "STORE_UNAVAILABLE")
    made.fail("toggle", 40, "NOT_FOUND", "FLAG_NOT_FOUND")
    assert broken(made).kept
    made.fail("toggle", 40, "UNAVAILABLE", "STORE_UNAVAILABLE", took=5)
    only("END", made)


def test_p6_a_call_fails_with_internal(made: Handmade) -> None:
    made.fault(10, 20)
    made.fail("toggle", 15, "INTERNAL", "INTERNAL", text="an internal error occurred")
    only("P6", made)
