"""One run: start everything, apply load and faults for the given time, heal, and examine the end state."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.callers import Callers
from tests.faults.cluster import REPLICAS, SKEWED, Cluster
from tests.faults.ending import look_at_the_end
from tests.faults.greedy import Greedy, rate_of
from tests.faults.inject import Injector
from tests.faults.load import Load
from tests.faults.planner import Planner
from tests.faults.record import NEVER, Record, Story
from tests.faults.schedule import Fault, schedule
from tests.faults.writers import FLAGS, ForeignWriter, Values, Writer
from tests.replicas import waited_for_a_cpu_s
from tests.servers import versions

BOUND_S = 5.0
LONG_RUN_S = 180.0
"""Runs of at least this length have three mongods, others one."""
_SEEN_LATE_S = 0.1
_TICK_S = 0.02
_WATCH_S = 0.1
_SEEN_STARVED_S = 0.02


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    `faults`: instead of those drawn from the seed; `flaw`: of `tests.faults.planted`; `folder`: for replicas' logs;
    `load`: the share of the calls a second.
    """

    seed: int
    seconds: float
    mongods: int
    faults: tuple[Fault, ...] | None = None
    flaw: str = ""
    folder: Path | None = None
    load: float = 1.0


@dataclass(slots=True)
class Progress:
    """The progress of a run."""

    what: str
    seconds: float = 0.0
    evaluations: int = 0
    writes: int = 0
    faults: int = 0
    active: tuple[str, ...] = ()


async def run(options: Options, report: Callable[[Progress], None]) -> Record:
    """Run, and return the record; `report` is called about ten times a second."""
    story = Story(options.seed, options.seconds, BOUND_S, options.mongods, list(FLAGS), versions=versions())
    record = Record(story)
    rate = rate_of(options.load)
    cluster = Cluster(story, mongods=options.mongods, greedy_rate=rate, flaw=options.flaw, folder=options.folder)
    report(Progress("starting"))
    try:
        await cluster.open()
        gc.freeze()
        await _Run(cluster, record, options, report).go()
    finally:
        await asyncio.shield(cluster.close())
    return record


class _Run:
    def __init__(self, cluster: Cluster, record: Record, options: Options, report: Callable[[Progress], None]) -> None:
        self._cluster, self._record, self._story, self._options = cluster, record, record.story, options
        self._report = report
        values = Values()
        self._load = Load(record, cluster.replicas, options.seed + 1, options.load)
        self._writer = Writer(record, cluster.replicas, self._load, values, options.seed + 2)
        self._foreign = ForeignWriter(record, cluster.mongods, values, options.seed + 3)
        self._callers = Callers(record, cluster.replicas, options.seed + 5, options.load)
        self._greedy = Greedy(record, cluster.replicas, rate_of(options.load))
        self._planner = Planner(record, cluster.replicas, values, options.seed + 6, options.load)
        self._injector = Injector(cluster, self._story, self._writer)
        self._what = "running"

    async def go(self) -> None:
        """Run from the first flag to the check at the end."""
        await self._writer.seed()
        self._story.began = time.monotonic()
        self._story.clock, self._story.skewed = time.time() - time.monotonic(), SKEWED
        watching = [asyncio.create_task(watch()) for watch in (self._notice_lags, self._notice_starvation, self._show)]
        try:
            self._load.start()
            self._writer.start()
            self._foreign.start()
            self._callers.start()
            self._greedy.start()
            self._planner.start()
            seconds = self._options.seconds
            faults = self._options.faults
            if faults is None:
                drawn = schedule(self._options.seed, seconds, replicas=REPLICAS, mongods=self._options.mongods)
                faults = tuple(drawn)
            await self._injector.play(faults)
            await asyncio.sleep(self._story.began + seconds - time.monotonic())
            self._what = "all faults are healed; waiting until every replica matches MongoDB"
            await self._writer.stop()
            await self._foreign.stop()
            await self._callers.stop()
            await self._planner.stop()
            await look_at_the_end(self._cluster, self._story)
            self._story.links = self._cluster.seen()
            self._load.check()
        finally:
            clients = (self._load, self._writer, self._foreign, self._callers, self._greedy, self._planner)
            working = (*clients, self._injector)
            under_way = [*watching, *(task for each in working for task in each.tasks)]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _notice_lags(self) -> None:
        """Record when this process itself did not run: what seems slow then is not the replicas' fault."""
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(_TICK_S)
            late = time.monotonic() - asleep - _TICK_S
            if late > _SEEN_LATE_S:
                self._story.lags.append([asleep, asleep + _TICK_S + late])

    async def _notice_starvation(self) -> None:
        """Record when replicas got no CPU because others had it: that is not their fault either."""
        known: dict[int, float] = {}
        since = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_S)
            until = time.monotonic()
            for incarnation in self._story.incarnations:
                if incarnation.ended == NEVER and (waited := waited_for_a_cpu_s(incarnation.pid)) is not None:
                    seconds = waited - known.get(incarnation.number, waited)
                    known[incarnation.number] = waited
                    if seconds > _SEEN_STARVED_S:
                        incarnation.starved.append([since, until, seconds])
            since = until

    async def _show(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                story = self._story
                self._report(
                    Progress(
                        self._what,
                        math.floor(time.monotonic() - story.began),
                        self._load.evaluations,
                        len(story.writes) + len(story.foreign),
                        len(story.faults),
                        tuple(self._injector.active),
                    )
                )
                await asyncio.sleep(0.1)
