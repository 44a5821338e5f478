"""Claims of messages: applied at once, confirmed by the change stream or the store, replaced where they are wrong."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Announced, Entry, StoreContents
from flagsvc.replication.hints import MAX_AHEAD, MAX_NOTED, Hints
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge

A, B = FlagId("default", "a"), FlagId("default", "b")


def entry(key: str, revision: int, name: str = "") -> Entry:
    return Entry.of(Flag(key=key, revision=revision, name=name))


class View:
    """A near cache that holds `a` at revision 1 and `b` at revision 2, read from the store."""

    def __init__(self) -> None:
        self.near = NearCache(100, 5.0)
        self.hints = Hints(self.near)
        now = time.monotonic()
        flags = [Flag(key="a", revision=1), Flag(key="b", revision=2)]
        merge(self.near, StoreContents(flags, {"default": 2}), now, now)

    def hear(self, said: Entry, event_revision: int = 0) -> bool:
        """Receive an announcement, as a follower does."""
        now = time.monotonic()
        if not self.hints.accept(Announced(said, event_revision=event_revision), now):
            return False
        self.near.apply_change(said, now, event_revision=event_revision)
        return True

    def stream(self, said: Entry, event_revision: int = 0) -> None:
        """Receive a change from the change stream."""
        now = time.monotonic()
        self.near.apply_change(said, now, event_revision=event_revision)
        self.hints.confirm(Announced(said, event_revision=event_revision), now)

    def ask(self, *stored: Entry, counter: int = 0) -> bool:
        """Settle all claims against what the store has."""
        due = self.hints.due(time.monotonic() + 1)
        counters = {"default": counter} if counter else {}
        return self.hints.settle(due, {each.id: each for each in stored}, time.monotonic(), counters)

    def held(self, flag_id: FlagId) -> Entry | None:
        held = self.near.get(flag_id)
        return held.entry if held is not None else None


@pytest.fixture
def view() -> View:
    return View()


def test_a_claim_that_the_stream_or_the_store_confirms_costs_nothing_more(view: View) -> None:
    for number, confirm in ((3, view.stream), (4, view.ask)):
        assert view.hear(entry("a", number))
        assert len(view.hints) == 1
        confirm(entry("a", number))
        assert (len(view.hints), view.hints.contradicted, view.held(A)) == (0, 0, entry("a", number))
    assert view.near.changelogs.watermark("default") == 4


def test_what_is_known_already_is_no_claim(view: View) -> None:
    view.stream(entry("a", 3))
    for said in (entry("a", 3), entry("a", 1), entry("b", 2), Entry.absent(FlagId("default", "z"), 2)):
        assert view.hear(said)
    assert len(view.hints) == 0


@pytest.mark.parametrize("stored", [entry("a", 1), Entry.absent(A, 2)])
def test_a_claim_that_the_store_contradicts_is_replaced_even_by_a_smaller_revision(view: View, stored: Entry) -> None:
    view.hear(entry("a", 3, "forged"))
    assert not view.ask(stored)
    assert view.held(A) == stored
    assert view.hints.contradicted == 1
    assert view.near.changelogs.watermark("default") == 0, "which changes are applied is not known any more"
    assert [problem.name for problem in view.hints.problems()] == ["announcements_contradicted"]


@pytest.mark.parametrize("stored", [Entry.absent(A, 3), entry("a", 3, "changed by another program")])
def test_a_claim_of_a_flag_that_another_program_changed_since_is_asked_about_again(view: View, stored: Entry) -> None:
    """That change has no revision yet. Until it has one, it must not count as a contradiction, nor as a gap."""
    view.hear(entry("a", 3))
    assert view.ask(stored, counter=3)
    assert (view.held(A), view.hints.contradicted) == (entry("a", 3), 0)
    assert view.near.changelogs.watermark("default") == 3
    heard: list[int] = []
    view.near.changelogs.listen("default", lambda changed, _watermark, _kind: heard.append(changed.revision))
    view.hear(Entry(A, 4, stored.flag and replace(stored.flag, revision=4)))
    assert heard == [4], "who watches hears of the change, with its revision"


@pytest.mark.parametrize("stored", [Entry.absent(A, 3), entry("a", 3, "right")])
def test_a_forged_claim_whose_revision_another_change_has_got_lives_until_the_second_poll(
    view: View, stored: Entry
) -> None:
    view.hear(entry("a", 3, "forged"))
    assert view.ask(stored, counter=3)
    assert not view.ask(stored, counter=3)
    assert (view.held(A), view.hints.contradicted) == (stored, 1)
    assert view.near.changelogs.watermark("default") == 0


def test_the_stream_contradicts_a_claim_of_the_same_revision(view: View) -> None:
    view.hear(entry("a", 3, "forged"))
    view.stream(entry("a", 3, "right"))
    assert (view.held(A), view.hints.contradicted) == (entry("a", 3, "right"), 1)


def test_one_and_true_are_not_the_same_content(view: View) -> None:
    forged = Entry.of(Flag(key="a", revision=3, config={"limit": True}))
    right = Entry.of(Flag(key="a", revision=3, config={"limit": 1}))
    view.hear(forged)
    view.stream(right)
    held = view.held(A)
    assert held is not None
    assert held.flag is not None
    assert type(held.flag.config["limit"]) is int  # type: ignore[index,call-overload]


def test_a_claim_about_another_flag_than_the_streams_is_due_at_once(view: View) -> None:
    view.hear(entry("a", 3, "forged"))
    view.stream(entry("b", 3))
    assert [hint.entry.id for hint in view.hints.due(0.0)] == [A]
    assert not view.ask(entry("a", 1))
    assert view.held(A) == entry("a", 1)


def test_a_store_that_has_moved_on_proves_no_claim_right(view: View) -> None:
    """The claimed revision may have been another flag's: everything is read again then."""
    view.hear(entry("a", 3))
    assert not view.ask(entry("a", 5))
    assert (view.held(A), view.hints.contradicted) == (entry("a", 5), 0)


def test_claims_far_ahead_or_too_many_are_not_applied(view: View) -> None:
    assert view.hear(entry("a", 2 + MAX_AHEAD))
    assert not view.hear(entry("a", 3 + MAX_AHEAD))
    assert not view.hear(entry("a", 3), event_revision=3 + MAX_AHEAD)


def test_only_so_many_claims_are_noted(view: View) -> None:
    for number in range(3, MAX_NOTED + 3):
        assert view.hear(entry("a", number))
    assert not view.hear(entry("b", MAX_NOTED + 3))
    assert len(view.hints) == MAX_NOTED
    view.hints.clear()
    assert view.hear(entry("b", MAX_NOTED + 3))


def test_an_entry_of_the_shared_cache_is_a_claim_only_beyond_what_is_known(view: View) -> None:
    view.hints.note_read(entry("a", 2), 0.0)
    assert len(view.hints) == 0
    view.hints.note_read(entry("a", 3), 0.0)
    assert view.hints.has(A)
    assert not view.hints.has(B)


@pytest.mark.parametrize("claimed", [Entry.absent(A, 3), entry("a", 3, "before")], ids=["deleted", "changed"])
def test_a_flag_that_another_program_inserts_after_a_claim_stays_as_claimed_until_it_has_a_revision(
    view: View, claimed: Entry
) -> None:
    view.hear(claimed)
    assert not view.ask(entry("a", 0, "inserted"), counter=4), "a load has to follow"
    assert view.held(A) == claimed, "it went back to revision 0"


@pytest.mark.parametrize("claimed", [Entry.absent(A, 3), entry("a", 3, "before")], ids=["deleted", "changed"])
def test_a_claim_beyond_the_counter_is_replaced_by_a_flag_without_a_revision(view: View, claimed: Entry) -> None:
    view.hear(claimed)
    assert not view.ask(entry("a", 0), counter=2)
    assert view.held(A) == entry("a", 0)
