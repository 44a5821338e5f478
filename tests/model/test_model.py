"""The protocol keeps its promises in every state that the searched worlds can reach, and each known hole is found."""

from __future__ import annotations

import pytest

from tests.model import page
from tests.model.holes import HOLES, Hole
from tests.model.protocol import initial, successors
from tests.model.search import search
from tests.model.setups import DELETES_ONCE, LONGER, QUICK
from tests.model.state import Setup

READABLE = 18
"""Steps; a counterexample longer than this helps nobody."""


WORLDS = [pytest.param(world, marks=pytest.mark.long if world in LONGER else (), id=world.name) for world in QUICK]


@pytest.mark.parametrize("setup", WORLDS)
def test_every_state_keeps_every_promise(setup: Setup) -> None:
    result = search(setup)
    assert not result.broken, result.story
    assert result.whole
    assert result.states > 1_000, "too few states to have searched anything"
    assert result.ends or not setup.timed, "nothing ever came to rest, so nobody was seen to agree"
    assert page.world_row(setup, result) in page.PAGE.read_text(), "run `python -m tests.model --page`"


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.name)
def test_a_hole_is_found_where_something_is_missing(hole: Hole) -> None:
    result = search(hole.world)
    assert result.broken.partition(":")[0] == hole.breaks, result.story or "nothing breaks"
    assert len(result.trace) <= READABLE, result.story
    assert page.hole_row(hole, result) in page.PAGE.read_text(), "run `python -m tests.model --page`"


def test_no_state_is_taken_for_another_one() -> None:
    """A search knows states by their hashes; this one compares them. With ticks -1 and -2 a quarter was not visited."""
    seen = set(initial(DELETES_ONCE))
    waiting = list(seen)
    while waiting:
        following = {after for _, after in successors(DELETES_ONCE, waiting.pop())} - seen
        seen |= following
        waiting += following
    assert search(DELETES_ONCE).states == len(seen)
