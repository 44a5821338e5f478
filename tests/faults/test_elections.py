"""An election that no fault led to counts as a fault; one that a fault led to is part of that."""

from __future__ import annotations

import time

from tests.faults.ending import UNASKED, unasked
from tests.faults.handmade import Handmade
from tests.faults.record import FaultWindow
from tests.faults.stores import Mongods


async def test_mongods_tell_when_they_had_a_new_primary() -> None:
    mongods = Mongods(3)
    try:
        await mongods.open()
        known = await mongods.elections()
        asked_at = time.monotonic()
        await mongods.give_way(await mongods.find_primary())
        await mongods.find_primary()
        told = await mongods.elections()
        assert max(known) < asked_at <= max(told) <= time.monotonic()
    finally:
        await mongods.shut()


def test_only_an_election_in_no_fault_of_mongod_is_unasked() -> None:
    story = Handmade().story
    story.began = 5.0
    story.faults += [
        FaultWindow(1, "mongod kill", "the primary", 10.0, 12.0),
        FaultWindow(2, "mongo stall", "replica 1", 20.0, 30.0),
    ]
    found = unasked([4.0, 11.0, 25.0], story)
    assert [(fault.kind, fault.end) for fault in found] == [(UNASKED, 25.0)]
    assert found[0].begin < 24.0
