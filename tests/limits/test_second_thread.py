"""Units that a second thread takes: it writes nothing that the event loop writes; each unit counts once."""

from __future__ import annotations

from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET
from flagsvc.limits.second_thread import SecondThread
from flagsvc.limits.share import Share
from flagsvc.limits.table import Table

CALLER = Identity(Kind.TOKEN, "a", "", Role.EVALUATE, EVERY_SET)
RATE = 100.0


def taken(table: Table, thread: SecondThread, calls: int = 10**6) -> int:
    """Make calls until the thread leaves one to the event loop; return how many it answered."""
    for number in range(calls):
        share = thread.share(CALLER, "")
        if share is None:
            return number
        thread.took(share)
    return calls


def table_with_caller() -> tuple[Table, Share]:
    table = Table("evaluate", RATE, lambda: 0.0)
    return table, table.of_identity(CALLER, 0.0)


def test_it_takes_until_the_share_runs_low_and_leaves_the_rest_to_the_loop() -> None:
    table, share = table_with_caller()
    thread, before, low = SecondThread(table), share.left, share.low
    answered = taken(table, thread)
    assert before - low < answered <= before - low + 1
    assert share.left == before, "the loop writes that"
    thread.fold()
    assert share.left == before - answered
    thread.fold()
    share.fold()
    assert share.left == before - answered, "once"
    assert taken(table, thread) == 0


def test_what_it_took_is_charged_at_the_next_lease_although_nobody_was_low() -> None:
    table, share = table_with_caller()
    taken(table, SecondThread(table), 10)
    assert share.wish(1.0, 1).charged == 10


def test_a_caller_of_the_thread_alone_is_in_use() -> None:
    table, share = table_with_caller()
    table.sweep()
    taken(table, SecondThread(table), 1)
    table.sweep()
    assert list(table) == [share]
    table.sweep()
    assert not list(table)


def test_a_caller_without_a_share_is_left_to_the_loop() -> None:
    table = Table("evaluate", RATE, lambda: 0.0)
    thread = SecondThread(table)
    assert thread.share(CALLER, "ipv4:10.0.0.1:5") is None
    share = table.of_address("ipv4:10.0.0.1:5", "ipv4:10.0.0.1")
    assert thread.share(CALLER, "ipv4:10.0.0.1:5") is None, "it has a credential"
    assert thread.share(UNCHECKED, "ipv4:10.0.0.1:5") is share
