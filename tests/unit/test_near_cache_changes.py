"""What the near cache reports and remembers of changes, and how it notices that some are missing."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from flagsvc.core.model import Flag
from flagsvc.ports import Entry, StoreContents
from flagsvc.view import changelog
from flagsvc.view.changelog import FORGOTTEN_AT_ONCE, LOG_LENGTH, RECENT_S, ChangeKind
from flagsvc.view.near_cache import NearCache
from tests.near_caches import contents, entry, gone, merge, near, recent


def test_a_gap_in_the_revisions_is_noticed_and_closes() -> None:
    cache = near()
    merge(cache, contents(default=3), 0.0, 0.0)
    cache.apply_change(entry(6, "c"), 1.0)
    cache.apply_change(entry(5, "b"), 2.0)
    assert (cache.changelogs.watermark("default"), cache.changelogs.gap_since()) == (3, 1.0)
    cache.apply_change(entry(4, "a"), 3.0)
    assert (cache.changelogs.watermark("default"), cache.changelogs.gap_since()) == (6, math.inf)


def test_since_returns_what_came_after_or_none_where_that_is_unknown() -> None:
    cache = near()
    merge(cache, contents(entry(2), entry(3, "b"), default=3), 0.0, 0.0)
    assert cache.changelogs.since("default", 2) is None, "a deletion at 3 could be missing"
    assert list(cache.changelogs.since("default", 3) or []) == []
    for revision in (5, 4):
        cache.apply_change(entry(revision), float(revision))
    cache.apply_change(gone(6), 6.0)
    assert [e.revision for e in cache.changelogs.since("default", 3) or []] == [5, 6], (
        "4 arrived late and changed nothing"
    )
    for revision in range(7, LOG_LENGTH + 20):
        cache.apply_change(entry(revision), float(revision))
    assert cache.changelogs.since("default", 4) is None
    assert [e.revision for e in cache.changelogs.since("default", LOG_LENGTH + 17) or []] == [
        LOG_LENGTH + 18,
        LOG_LENGTH + 19,
    ]


def test_changes_are_reported_across_sets_also_those_of_flags_that_are_not_held() -> None:
    cache, reported = near(), []
    merge(cache, contents(default=1), 0.0, 0.0)
    cache.when_changed(reported.append)
    cache.apply_change(entry(2, flag_set="other"), 1.0)
    cache.apply_change(gone(3, "never seen"), 1.0)
    assert reported == [entry(2, flag_set="other"), gone(3, "never seen")]


def test_a_recent_change_is_known_until_it_is_old() -> None:
    cache = near()
    merge(cache, contents(default=0), 0.0, 0.0)
    cache.apply_change(entry(1), 1.0)
    cache.apply_change(entry(2, "b"), 2.0)
    cache.apply_change(gone(3), 3.0)
    cache.apply_change(gone(3), 100.0)
    assert recent(cache, "default", 3.0) == {"a": "delete", "b": "write"}
    assert recent(cache, "default", 2.0 + RECENT_S) == {"a": "delete", "b": "write"}
    assert recent(cache, "default", 3.0 + RECENT_S) == {"a": "delete"}
    assert recent(cache, "default", 3.1 + RECENT_S) == {}
    assert recent(cache, "nobody", 3.0) == {}
    cache.apply_change(entry(4, "c"), 4.0 + RECENT_S)
    assert len(cache.changelogs.of("default").recent_changes) == 1, "old changes are dropped"


def test_a_first_load_counts_as_recent_what_changed_shortly_before_it() -> None:
    cache = NearCache(100, 5.0, wall_clock=lambda: 1_000.0)
    times = {"new": 900.0, "old": 800.0}
    flags = [Flag(key=key, updated_at=datetime.fromtimestamp(at, UTC)) for key, at in times.items()]
    reported: list[str] = []
    cache.changelogs.listen("default", lambda e, *_: reported.append(e.id.key))
    merge(cache, StoreContents([*flags, Flag(key="timeless")], {"default": 3}), 10.0, 10.0)
    assert recent(cache, "default", 10.0) == {"new": "update", "timeless": "update"}
    assert recent(cache, "default", 10.1 + RECENT_S) == {}
    assert reported == [], "the first load is a change for nobody"


def test_filling_a_miss_is_no_change() -> None:
    cache, reported = near(limit=1), []
    cache.changelogs.listen("default", lambda e, _, kind: reported.append((e.id.key, kind)))
    merge(cache, contents(entry(1), entry(2, "b"), default=2), 0.0, 0.0)
    cache.apply_read(entry(2, "b"), 1.0, 1.0)
    assert reported == []
    cache.apply_change(entry(3, "c"), 2.0)
    cache.apply_change(gone(4, "d"), 3.0)
    assert reported == [("c", "update"), ("d", "delete")], "an announced change always is one"


def test_old_changes_are_forgotten_a_few_at_a_time() -> None:
    cache = near(limit=1_000)
    merge(cache, contents(default=0), 0.0, 0.0)
    for number in range(3 * FORGOTTEN_AT_ONCE):
        cache.changelogs.of("default").remember(f"k{number}", ChangeKind.UPDATE, 1.0)
    left = []
    for number in range(4):
        cache.changelogs.of("default").remember("new", ChangeKind.UPDATE, 2.0 + RECENT_S + number)
        left.append(len(cache.changelogs.of("default").recent_changes))
    assert left == [2 * FORGOTTEN_AT_ONCE + 1, FORGOTTEN_AT_ONCE + 1, 1, 1]


def test_few_of_many_recent_changes_are_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "LOOKED_AT", 10)
    cache = near(limit=1_000)
    merge(cache, contents(default=0), 0.0, 0.0)
    log, looks = cache.changelogs.of("default"), 0
    for number in range(200):
        log.remember(f"k{number % 90}", ChangeKind.UPDATE, 1.0)
    number: int | None = 0
    seen: list[str] = []
    while number is not None:
        found, number = cache.changelogs.changes_after("default", number, 1_000, 1.0)
        assert len(found) <= 10
        seen += found
        looks += 1
    assert seen == [f"k{number % 90}" for number in range(110, 200)]
    assert looks == 9


def test_what_was_missed_is_what_listeners_were_not_notified_of() -> None:
    cache, missed = NearCache(0, 5.0), list[str]()
    cache.when_missed(missed.append)
    cache.apply_change(Entry.of(Flag(key="a", revision=1)), 1.0)
    cache.changelogs.of("default").forget(were_told=True)
    cache.mark_gap({"default": 1}, 2.0)
    assert missed == []
    cache.mark_gap({"default": 2}, 3.0)
    assert missed == ["default"]
    cache.changelogs.of("default").forget()
    cache.mark_gap({"default": 2}, 4.0)
    assert missed == ["default", "default"]


@pytest.mark.parametrize("limit", [0, 1, 2])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_change_that_a_read_has_brought_before_its_announcement_is_told(limit: int, *, deleted: bool) -> None:
    """Of a flag that is not held, a read is no news: nobody knows yet that it has changed."""
    cache = near(limit)
    merge(cache, contents(entry(1), entry(2, "b"), entry(3, "c"), default=5), 0.0, 0.0)
    told, missed = list[tuple[str, int, ChangeKind]](), list[str]()
    cache.changelogs.listen("default", lambda e, _, kind: told.append((e.id.key, e.revision, kind)))
    cache.when_missed(missed.append)
    change, kind = (gone(6, "d"), ChangeKind.DELETE) if deleted else (entry(6, "d"), ChangeKind.UPDATE)
    read = Entry.absent(change.id, 8) if deleted else change
    cache.apply_read(read, 1.0, 1.0)
    assert told == [], "it may be as old as the view"
    cache.apply_change(change, 2.0)
    assert [*told, *missed] in ([("d", read.revision, kind)], ["default"])
    cache.apply_change(change, 3.0)
    assert len(told) + len(missed) == 1, "once"


def test_a_change_of_what_is_held_is_told_once_where_a_read_brings_it_before_its_announcement() -> None:
    cache = near(2)
    merge(cache, contents(entry(1), entry(2, "b"), entry(3, "c"), default=5), 0.0, 0.0)
    cache.apply_read(entry(1), 1.0, 1.0)
    told = list[int]()
    cache.changelogs.listen("default", lambda e, _watermark, _kind: told.append(e.revision))
    cache.apply_read(entry(6), 2.0, 2.0)
    cache.apply_change(entry(6), 3.0)
    assert told == [6]
