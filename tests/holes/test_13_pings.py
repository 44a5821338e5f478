"""Hole 13: clients that ping to keep their streams alive are disconnected for it."""

from __future__ import annotations

import asyncio
import time

from tests.holes.pings import Pinging
from tests.replicas import until

LONG_S = 10.0


async def test_13_clients_that_ping_all_the_time_are_not_disconnected(pinging: Pinging) -> None:
    """They began with the first test of this folder, so that this test waits for the rest of the time only."""
    await asyncio.sleep(max(0.0, pinging.since + LONG_S - time.monotonic()))
    bare, client = pinging.bare, pinging.client
    assert (bare.sent_away, bare.cut_off) == (False, False)
    assert bare.sent > 100
    await until(lambda: bare.answered >= bare.sent - 1, 5)
    assert client.ended == []
    assert not client.lost, client.states
