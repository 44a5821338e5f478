"""The checker on callers: revoked tokens, valid ones, streams, and a caller that sends more than its rate."""

from __future__ import annotations

import pytest

from tests.faults.attempts import ACCEPTED, FAILED, READ, REFUSED, OpenStream
from tests.faults.handmade import Handmade, broken, only
from tests.faults.record import Incarnation

STALL, TAIL, REDIS = "mongo stall", "mongo-tail stall", "redis stall"


def test_a_token_that_is_used_and_revoked_breaks_nothing(made: Handmade) -> None:
    token = made.token(10)
    for on in (0, 1):
        made.attempt(token, 10.2, ACCEPTED, on=on)
    made.revoke(token, 20)
    made.attempt(token, 20.05, ACCEPTED)  # while it is revoked
    made.attempt(token, 20.2, REFUSED)
    made.attempt(token, 20.9, ACCEPTED, on=1)  # another replica, within a second
    made.attempt(token, 21.2, REFUSED, on=1)
    assert broken(made).kept


def test_p13_a_replica_that_is_named_accepts_a_revoked_token(made: Handmade) -> None:
    token = made.token(10)
    made.revoke(token, 20, applied_by=["host-0", "host-1"])
    made.attempt(token, 20.11, ACCEPTED, on=1)
    assert "is named by token change 2 (RevokeToken)" in only("P13", made)


@pytest.mark.parametrize(("fault", "is_reached"), [("", True), (REDIS, True), (TAIL, True), (STALL, False)])
def test_p13_a_replica_that_is_not_named_accepts_it_for_a_second(made: Handmade, fault: str, is_reached: bool) -> None:
    token = made.token(10)
    if fault:
        made.fault(18, 40, fault)
    made.revoke(token, 20, applied_by=[])
    made.attempt(token, 21.05, ACCEPTED)
    assert broken(made).kept
    made.attempt(token, 21.3, ACCEPTED)
    if is_reached:
        assert "0.20 s too long" in only("P13", made)
    else:
        assert broken(made).kept


def test_p13_a_fault_is_over_for_the_bound_and_a_second_before_it_counts(made: Handmade) -> None:
    token = made.token(10)
    made.fault(18, 22, STALL)
    made.revoke(token, 20)
    made.attempt(token, 28.9, ACCEPTED, on=1)  # the fault was on replica 0 alone
    only("P13", made)
    made.story.faults[0].target = "replica 1"
    assert broken(made).kept
    made.attempt(token, 29.1, ACCEPTED, on=1)
    only("P13", made)


def test_p13_the_wait_for_a_cpu_does_not_count(made: Handmade) -> None:
    token = made.token(10)
    made.revoke(token, 20)
    made.attempt(token, 21.3, ACCEPTED, on=1)
    made.story.incarnations[1].starved.append([20.5, 21.0, 0.3])
    assert broken(made).kept


def test_p13_past_the_bound_a_revoked_token_reads_nothing_wherever_that_is(made: Handmade) -> None:
    token = made.token(10)
    for replica in ("replica 0", "replica 1"):
        made.fault(18, 60, STALL)
        made.story.faults[-1].target = replica
    made.revoke(token, 20)
    made.attempt(token, 25.15, ACCEPTED, on=1, kind=READ)
    made.attempt(token, 50, ACCEPTED, on=1)  # an evaluation goes on
    made.attempt(token, 50, FAILED, on=1, kind=READ)
    assert broken(made).kept
    made.attempt(token, 25.25, ACCEPTED, on=1, kind=READ)
    assert "longer ago than the staleness bound" in only("P13", made)


def test_p13_a_revoked_token_comes_back(made: Handmade) -> None:
    token = made.token(10)
    made.fault(18, 60, STALL)
    made.story.faults[-1].target = "replica 1"
    made.attempt(token, 11, ACCEPTED, on=1)
    made.revoke(token, 20)
    made.attempt(token, 21, REFUSED, on=1)
    made.attempt(token, 22, ACCEPTED, on=1)
    assert "was refused here before" in only("P13", made)


def test_p13_a_process_that_began_later_accepts_a_revoked_token(made: Handmade) -> None:
    token = made.token(10)
    made.story.incarnations.append(Incarnation(2, 1, 102, 21.0, "host-2", 22.0))
    made.revoke(token, 20)
    made.attempt(token, 22.5, ACCEPTED, on=2)
    assert "before this process began" in only("P13", made)


def test_p13_a_process_that_began_from_its_snapshot_lets_a_revoked_token_evaluate_and_nothing_else(
    made: Handmade,
) -> None:
    token = made.token(10)
    made.fault(18, 60, STALL)
    made.story.faults[-1].target = "replica 1"
    made.story.incarnations.append(Incarnation(2, 1, 102, 21.0, "host-2", 22.0))
    made.revoke(token, 20)
    made.attempt(token, 22.5, ACCEPTED, on=2)
    assert broken(made).kept
    made.attempt(token, 22.6, ACCEPTED, on=2, kind=READ)
    assert "before this process began" in only("P13", made)


def test_p13_a_valid_token_is_refused(made: Handmade) -> None:
    token = made.token(10, applied_by=["host-0"])
    made.attempt(token, 10.5, REFUSED, on=1)
    assert broken(made).kept
    made.attempt(token, 10.5, REFUSED)
    made.attempt(token, 11.2, REFUSED, on=1)
    assert "is valid" in only("P13", made, 2)


def test_p13_a_valid_token_is_refused_where_it_was_accepted(made: Handmade) -> None:
    token = made.token(10, applied_by=[])
    made.fault(9, 60, STALL)
    made.attempt(token, 11, ACCEPTED)
    made.attempt(token, 12, REFUSED)
    assert "accepted here before" in only("P13", made)


def test_p13_a_stream_goes_on_after_its_token_is_revoked(made: Handmade) -> None:
    token = made.token(10)
    made.revoke(token, 20)
    streams = [OpenStream(token.number, on, "WatchFlags", 11, 21.05, REFUSED) for on in (0, 1)]
    made.story.streams += [*streams, OpenStream(token.number, 0, "WatchFlags", 11, 20.3)]  # the client left
    assert broken(made).kept
    streams[1].ended = 21.4
    assert "0.30 s longer than it may" in only("P13", made)


def test_p13_a_stream_of_a_valid_token_is_ended(made: Handmade) -> None:
    token = made.token(10)
    made.story.streams.append(OpenStream(token.number, 0, "WatchFlags", 11, 12, REFUSED))
    assert "it is valid" in only("P13", made)


def test_p13_applied_by_all_without_a_live_replica(made: Handmade) -> None:
    change = made.revoke(made.token(10), 20, applied_by=["host-0"])
    assert broken(made).kept
    change.reached = 3
    assert "without replica 1" in only("P13", made)
    made.fault(15, 16, REDIS)
    assert broken(made).kept


def test_p2_a_change_of_tokens_names_a_replica_that_never_was(made: Handmade) -> None:
    made.revoke(made.token(10), 20, applied_by=["host-9"])
    assert "host-9" in only("P2", made)


def test_p13_a_replica_does_not_know_the_rights_of_callers_although_it_can(made: Handmade) -> None:
    made.fault(10, 20, STALL)
    made.fail("read", 25, "UNAVAILABLE", "ACCESS_UNKNOWN")
    assert broken(made).kept
    made.fail("read", 26.5, "UNAVAILABLE", "ACCESS_UNKNOWN")
    assert broken(made).counts["P13"] == 1


def test_p9_a_change_of_a_token_without_an_audit_entry(made: Handmade) -> None:
    change = made.revoke(made.token(10), 20)
    assert broken(made).kept
    made.story.ending.audit.pop()
    assert f"{change} of {change.token} has no audit entry" in only("P9", made)
    change.acknowledged = False
    assert broken(made).kept


def test_p12_a_caller_gets_its_rate_and_one_burst(made: Handmade) -> None:
    greedy = made.story.greedy
    greedy.rate = 10
    greedy.accepted = [50.0] * 20 + [50 + 0.1 * n for n in range(1, 200)]
    assert broken(made).kept
    greedy.accepted += [69.9] * 10
    assert broken(made).kept, "within a twentieth"
    greedy.accepted += [69.9] * 5
    assert "5 calls more" in broken(made).explained["P12"][-1]
    made.fault(50, 52, REDIS)
    assert broken(made).kept
