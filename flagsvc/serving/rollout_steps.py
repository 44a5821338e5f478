"""Announces the steps of rollouts to clients that hold values: the definitions stay, their values change with time.

Clients that evaluate themselves, and every server, need no announcement: their clocks decide.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from functools import partial

from flagsvc.background import BackgroundTasks, repeat
from flagsvc.core.evaluation import read_rollout
from flagsvc.core.model import Flag, FlagId
from flagsvc.core.rollouts import BadRollout, next_visible_step
from flagsvc.turns import in_turns
from flagsvc.view.near_cache import NearCache

TICK_S = 0.25
SETTLE_S = 0.5
"""How long after a step it is announced: a client that asks again may reach a replica whose clock is behind."""

MAX_OUTDATED = 1_000
"""Moments of steps that were planned otherwise since."""


class RolloutSteps:
    """The next step of each rollout that is held, or known without being held.

    `clock`: seconds since 1970, as evaluations read them.
    """

    def __init__(self, near: NearCache, clock: Callable[[], float] = time.time) -> None:
        self._near, self._clock = near, clock
        self._planned: dict[FlagId, tuple[int, int]] = {}
        """Of each flag the revision that was looked at, and the moment of its next step."""
        self._heap: list[tuple[int, FlagId]] = []
        """The moments in order, and some that hold no more."""
        self._tasks = BackgroundTasks()
        self._passed = clock()
        """Every step up to this moment is announced."""
        self.announced = 0

    def start(self) -> None:
        """Begin to announce."""
        self._tasks.start(repeat(self.tick, partial(asyncio.sleep, TICK_S), "rollout_steps_failed"), "rollout-steps")

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()

    async def tick(self) -> None:
        """Take over the rollouts that are new, and announce the steps that are due."""
        before, passed = self._passed, self._clock() - SETTLE_S
        async for flag_id in in_turns(self._near.take_new_rollouts()):
            self._plan(flag_id, min(before, passed))  # what came since may have had a step since
        self._passed = passed
        while self._heap and self._heap[0][0] <= passed:
            moment, flag_id = heapq.heappop(self._heap)
            revision, planned = self._planned.get(flag_id, (0, 0))
            if planned != moment:
                continue
            del self._planned[flag_id]
            entry = self._near.rollout_entry(flag_id)
            if entry is not None and entry.revision == revision:
                self._near.announce_values(entry, time.monotonic())
                self.announced += 1
                self._plan(flag_id, passed)

    def _plan(self, flag_id: FlagId, after: float) -> None:
        """Remember the next step of a flag's rollout, if there is one."""
        entry = self._near.rollout_entry(flag_id)
        step = None if entry is None or entry.flag is None else _next_step(entry.flag, after)
        if entry is None or step is None:
            self._planned.pop(flag_id, None)
            return
        if self._planned.get(flag_id) == (entry.revision, step):
            return  # it was read again, or is not held any more
        self._planned[flag_id] = entry.revision, step
        heapq.heappush(self._heap, (step, flag_id))
        if len(self._heap) > 2 * len(self._planned) + MAX_OUTDATED:
            self._heap = [(planned, i) for i, (_, planned) in self._planned.items()]
            heapq.heapify(self._heap)


def _next_step(flag: Flag, after: float) -> int | None:
    if flag.rollout is None:
        return None
    try:
        return next_visible_step(read_rollout(flag), after)
    except BadRollout:
        return None
