"""Whether the store still is the one that was read before."""

from __future__ import annotations

import pytest

from flagsvc.replication.lineage import Lineage
from tests.stores import OTHER_STORE, STORE


@pytest.mark.parametrize(
    ("counters", "held", "continues"),
    [
        ({"default": 7}, {"default": 7}, True),
        ({"default": 8, "new": 1}, {"default": 7}, True),
        ({"default": 6}, {"default": 7}, False),
        ({"other": 9}, {"default": 7}, False),
        ({}, {}, True),
    ],
)
def test_a_counter_below_what_is_held_is_a_store_that_went_back(
    counters: dict[str, int], held: dict[str, int], continues: bool
) -> None:
    lineage = Lineage()
    assert lineage.continues(counters, held) is continues
    assert lineage.is_sound is continues
    assert [problem.name for problem in lineage.problems()] == ([] if continues else ["store_went_back"])


def test_it_is_not_forgotten_when_the_counter_catches_up() -> None:
    lineage = Lineage()
    lineage.continues({"default": 6}, {"default": 7})
    assert not lineage.continues({"default": 8}, {"default": 7})
    [problem] = lineage.problems()
    assert '"default" 6 instead of 7' in problem.detail
    assert "flagsvc resync --confirm" in problem.cure
    lineage.resynced()
    assert lineage.continues({"default": 8}, {"default": 7})


def test_another_identity_is_another_store() -> None:
    lineage = Lineage()
    assert not lineage.is_other(STORE), "nothing was read before"
    assert lineage.begin(STORE)
    assert not lineage.is_other(STORE)
    assert lineage.is_other(OTHER_STORE)
    assert lineage.is_other(None)


@pytest.mark.parametrize("first", ["snapshot", "store"])
def test_a_snapshot_of_another_store_is_refused_whichever_is_read_first(first: str) -> None:
    lineage = Lineage()
    if first == "snapshot":
        assert lineage.may_restore(OTHER_STORE.id)
        assert not lineage.begin(STORE)
    else:
        assert lineage.begin(STORE)
        assert not lineage.may_restore(OTHER_STORE.id)
        assert lineage.may_restore(STORE.id)
        assert lineage.may_restore(""), "of an older version"
