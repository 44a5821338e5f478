"""An election that no fault caused counts as a fault; one that a fault caused is part of that fault."""

from __future__ import annotations

import time

from tests.faults.ending import SPONTANEOUS_ELECTION, spontaneous_elections
from tests.faults.handmade import Handmade
from tests.faults.record import FaultWindow
from tests.faults.stores import Mongods


async def test_elections_are_reported_with_their_times() -> None:
    mongods = Mongods(3)
    try:
        await mongods.open()
        known = await mongods.elections()
        asked_at = time.monotonic()
        await mongods.give_way(await mongods.find_primary())
        await mongods.find_primary()
        later = await mongods.elections()
        assert max(known) < asked_at <= max(later) <= time.monotonic()
    finally:
        await mongods.shut()


def test_only_an_election_outside_a_fault_of_mongod_is_spontaneous() -> None:
    story = Handmade().story
    story.began = 5.0
    story.faults += [
        FaultWindow(1, "mongod kill", "the primary", 10.0, 12.0),
        FaultWindow(2, "mongo stall", "replica 1", 20.0, 30.0),
    ]
    found = spontaneous_elections([4.0, 11.0, 25.0], story)
    assert [(fault.kind, fault.end) for fault in found] == [(SPONTANEOUS_ELECTION, 25.0)]
    assert found[0].begin < 24.0
