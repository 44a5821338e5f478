"""What is read for a while costs no full collection, and what a load makes is never looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flagsvc import collector


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    collector.configure()
    yield
    gc.set_threshold(*before)


def test_full_collections_wait_until_the_last_large_read_has_ended() -> None:
    with collector.young_only():
        with collector.young_only():
            assert gc.get_threshold() == (*collector.THRESHOLDS[:2], collector.NEVER)
        assert gc.get_threshold()[2] == collector.NEVER
        assert gc.isenabled()
    assert gc.get_threshold() == collector.THRESHOLDS


def test_no_collection_but_a_full_one_looks_at_many_objects() -> None:
    young, more, _ = collector.THRESHOLDS
    assert young * (more + 1) <= 20_000


@pytest.mark.parametrize(("objects", "is_frozen"), [(1_000, False), (collector.FREEZE_FROM + 1_000, True)])
def test_only_a_large_load_is_frozen(objects: int, is_frozen: bool) -> None:
    gc.collect()
    before = gc.get_freeze_count()
    with collector.paused():
        load = [[number] for number in range(objects)]
        collector.freeze_load()
    assert (gc.get_freeze_count() >= before + len(load)) is is_frozen
