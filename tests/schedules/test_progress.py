"""Which replica tries to execute what is due: those that were too late watch, and take over what does not move."""

from __future__ import annotations

from flagsvc.core.model import FlagId
from flagsvc.ports.schedules import Upcoming
from flagsvc.schedules.progress import PATIENT_AFTER_S, Progress


def due(*ids: str, flag_set: str = "default") -> list[Upcoming]:
    return [Upcoming(FlagId(flag_set, f"flag-{each}"), -1.0, each) for each in ids]


def test_a_set_left_to_another_replica_is_tried_again_once_its_first_schedule_stays_the_first() -> None:
    progress = Progress()
    assert progress.look(due("a", "b", "c")) == [due("a", "b", "c")]
    progress.leave("default")
    assert progress.look(due("b", "c")) == [], "the other one goes on"
    assert progress.look(due("c")) == []
    assert progress.look(due("c")) == [due("c")], "the other one has stopped"
    progress.go_on("default")
    assert progress.look(due("d")) == [due("d")], "this one goes on"


def test_sets_are_left_one_by_one_and_nothing_due_ends_it() -> None:
    progress = Progress()
    mine, others = due("a", "b", flag_set="mine"), due("c", "d", flag_set="others")
    assert progress.look([*mine, *others]) == [mine, others]
    progress.leave("others")
    assert progress.look([*mine[1:], *others[1:]]) == [mine[1:]]
    progress.look([])
    assert progress.look(others[1:]) == [others[1:]]


def test_what_stays_the_first_for_long_is_waited_for_as_its_process_may_have_died() -> None:
    now = 0.0
    progress = Progress(lambda: now)
    first, second = due("a", "b")
    for now in (0.0, PATIENT_AFTER_S):  # noqa: B007  the clock reads it
        progress.look([first, second])
        assert not progress.is_stuck(first)
    now = PATIENT_AFTER_S + 0.1
    assert progress.is_stuck(first)
    assert not progress.is_stuck(second)
    progress.look([second])
    assert not progress.is_stuck(second)
