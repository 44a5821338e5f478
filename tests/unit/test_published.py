"""What a second thread reads of the near cache is what the event loop would have answered between two steps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import flagsvc.view
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents
from flagsvc.view.near_cache import TOMBSTONE_S, NearCache
from flagsvc.view.published import Seen, Steps, read

KEYS = ("a", "b", "c", "d")
IDS = [FlagId("default", key) for key in KEYS]
ROUNDS, LOOKS, MAX_ROUNDS = 300, 100, 100_000
"""Changes while a thread looks, at how many of its looks they may end, and after how many they end at last."""
VIEW = str(Path(flagsvc.view.__file__).parent)
Answers = dict[str, int | None]


def entry(key: str, revision: int) -> Entry:
    return Entry.of(Flag(key=key, revision=revision))


def contents(revision: int, **revisions: int) -> StoreContents:
    flags = [Flag(key=key, revision=at) for key, at in revisions.items()]
    return StoreContents(flags, {"default": revision})


def load(near: NearCache, found: StoreContents, at: float) -> None:
    for _ in near.merging(found, at, at, []):
        pass


def loaded(limit: int = 100) -> NearCache:
    near = NearCache(limit, 5.0)
    load(near, contents(4, a=1, b=2, c=3, d=4), 1.0)
    return near


def resync(near: NearCache) -> None:
    with near.starting_over(2.0):
        for _ in near.resyncing(contents(2, a=1, b=2), 2.0, 2.0):
            pass


def restored(near: NearCache) -> None:
    near.drop()
    for _ in near.restoring(contents(3, a=1, b=2, c=3), 0.0, 2.0):
        pass


def evicted(near: NearCache) -> None:
    near.limit = len(KEYS)
    near.apply_change(entry("e", 5), 2.0)


WRITERS: dict[str, Callable[[NearCache], None]] = {
    "a change": lambda near: near.apply_change(entry("b", 5), 2.0),
    "a deletion": lambda near: near.apply_change(Entry(FlagId("default", "b"), 5, None), 2.0),
    "changes out of order": lambda near: (near.apply_change(entry("b", 6), 2.0), near.apply_change(entry("a", 5), 2.0))[
        0
    ],
    "a read": lambda near: near.apply_read(entry("b", 7), 2.0, 2.0) and None,
    "an eviction": evicted,
    "a load": lambda near: load(near, contents(9, a=1, b=8, d=9), 2.0),
    "a load after a gap": lambda near: (near.mark_gap({"default": 9}, 2.0), load(near, contents(9, a=1, b=8), 3.0))[0],
    "a load that does not fit": lambda near: (setattr(near, "limit", 2), load(near, contents(9, a=1, b=8, c=9), 2.0))[
        0
    ],
    "what is forced": lambda near: near.force_replace(2, Entry.of(Flag(key="b", name="other", revision=2)), 2.0, 2.0),
    "a start over": resync,
    "a snapshot": restored,
    "everything forgotten": NearCache.drop,
}


def answers(near: NearCache, seen_by: Callable[[FlagId], Seen | None]) -> dict[str, tuple[int | None, float]]:
    """Return the revision of each flag that may be answered, None for one that does not exist, and its proof."""
    found = {i.key: answer_in(seen_by(i)) for i in IDS}
    return {key: answer for key, answer in found.items() if answer is not None}


def answer_in(seen: Seen | None) -> tuple[int | None, float] | None:
    """Return the revision that was read, None for a flag that does not exist, and its proof."""
    if seen is None:
        return None
    return seen.held.entry.revision if seen.held is not None and seen.held.entry.flag else None, seen.verified_at


def now_read(near: NearCache) -> dict[str, tuple[int | None, float]]:
    """Return what another thread reads while nothing changes."""
    return answers(near, lambda i: read(near, i, 2.5))


@contextmanager
def at_every_line(look: Callable[[], None]) -> Iterator[None]:
    """Look before each line of the near cache's code, which is where a second thread can run."""
    looking = False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal looking
        if looking or not frame.f_code.co_filename.startswith(VIEW):
            return None
        if event == "line":
            looking = True
            try:
                look()
            finally:
                looking = False
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def what_is_seen(near: NearCache, change: Callable[[NearCache], None]) -> tuple[list[Any], list[Any]]:
    """Return what another thread saw at each line of a change, and what the loop would have answered between steps."""
    seen: list[Any] = []
    between: list[Any] = []

    def look() -> None:
        between_steps = near.steps._depth == 0
        found = answers(near, lambda i: read(near, i, 2.5))
        if between_steps:
            between.append(found)
        seen.append(found)

    look()
    with at_every_line(look):
        change(near)
    look()
    return seen, between


@pytest.mark.parametrize("name", WRITERS)
def test_no_line_of_a_change_shows_what_the_loop_would_not_answer(name: str) -> None:
    near = loaded()
    seen, between = what_is_seen(near, WRITERS[name])
    assert len(seen) > 5
    for found in seen:
        assert all(any(state.get(key) == answer for state in between) for key, answer in found.items()), found


def read_with(near: NearCache, flag_id: FlagId, change: Callable[[NearCache], None], line: int) -> tuple[Any, bool]:
    """Read a flag while another thread changes the view before one line of the read; whether it has that line."""
    count = 0
    changed = False

    def look() -> None:
        nonlocal count, changed
        if count == line:
            changed = True
            change(near)
        count += 1

    with at_every_line(look):
        seen = read(near, flag_id, 2.5)
    return seen, changed


@pytest.mark.parametrize("name", WRITERS)
def test_no_line_of_a_read_mixes_what_was_before_a_change_with_what_is_after_it(name: str) -> None:
    refused = 0
    for flag_id in IDS:
        for line in range(100):
            near = loaded()
            before = now_read(near)
            seen, changed = read_with(near, flag_id, WRITERS[name], line)
            if not changed:
                break
            after, found = now_read(near), answer_in(seen)
            refused += seen is None
            assert seen is None or found in (before.get(flag_id.key), after.get(flag_id.key))
        else:
            pytest.fail("a read has an end")
    assert refused


class Open(Steps):
    """Steps that nobody notices: what a reader would see if only the order of a change protected it."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1


@pytest.mark.parametrize("name", ["an eviction", "everything forgotten"])
def test_without_the_generation_existing_flags_would_be_missing(name: str) -> None:
    near = loaded()
    near.steps = Open()
    seen, between = what_is_seen(near, WRITERS[name])
    ends = (between[0], between[-1])
    wrong = [found for found in seen for key, answer in found.items() if all(end.get(key) != answer for end in ends)]
    assert wrong


def test_a_step_within_a_step_is_a_part_of_it() -> None:
    steps = Steps()
    with steps:
        with steps:
            assert steps.generation == 1
        assert steps.generation == 1
    assert steps.generation == 2


def test_a_failed_step_is_over() -> None:
    steps = Steps()
    with pytest.raises(KeyError), steps:
        raise KeyError
    assert steps.generation == 2


def test_a_partial_view_is_left_to_the_loop() -> None:
    near = loaded()
    near.complete = False
    assert all(read(near, i, 2.0) is None for i in IDS)


def test_what_is_not_verified_in_time_is_left_to_the_loop() -> None:
    near = loaded()
    assert read(near, IDS[0], 6.0) is not None
    assert read(near, IDS[0], 6.1) is None


@pytest.mark.parametrize(("min_revision", "is_answered"), [(0, True), (4, True), (5, False)])
def test_a_token_is_kept(min_revision: int, is_answered: bool) -> None:
    assert (read(loaded(), IDS[0], 2.0, min_revision) is not None) is is_answered


def test_a_thread_beside_the_loop_sees_no_flag_missing_and_none_older() -> None:
    """Every flag exists at every moment, and its revisions only grow, while flags are evicted and loaded again."""
    near, wrong = loaded(len(KEYS)), []
    ended = threading.Event()
    looked = number = 0
    now = 1.0

    def look() -> None:
        nonlocal looked
        newest = dict.fromkeys(KEYS, 0)
        while not ended.is_set():
            for flag_id in IDS:
                seen = read(near, flag_id, now)
                if seen is None:
                    continue
                looked += 1
                revision = seen.held.entry.revision if seen.held is not None else -1
                if revision < newest[flag_id.key]:
                    wrong.append((flag_id.key, revision, newest[flag_id.key]))
                newest[flag_id.key] = max(newest[flag_id.key], revision)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        while number < ROUNDS or (looked < LOOKS and number < MAX_ROUNDS):  # a busy machine may not run the thread yet
            number += 1
            revision = 10 + 3 * number
            now += TOMBSTONE_S
            near.apply_change(entry("a", revision), now)
            near.apply_change(entry("new", revision + 1), now)  # evicts another flag
            near.apply_change(Entry(FlagId("default", "new"), revision + 2, None), now)
            now += TOMBSTONE_S + 1
            for _ in range(2):  # the first one forgets the deletion, which leaves room for all flags
                load(near, contents(revision + 2, a=revision, b=2, c=3, d=4), now)
            assert near.complete
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong
    assert looked >= LOOKS
