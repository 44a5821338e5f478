"""For how long old answers went on after each write, by replica and by the faults that were active meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.faults.answers import Answers, Column, says_stale
from tests.faults.calm import Calm
from tests.faults.record import NEVER, Incarnation, Story

QUIET = "no fault"


@dataclass(frozen=True, slots=True)
class Lag:
    """From a write's answer to the end of the last old answer that started after it, on one replica; 0: none did."""

    seconds: float
    unsaid_s: float
    """The same, for answers that did not say STALE."""
    foreign: bool
    kinds: tuple[str, ...]
    """Faults that were active in that time."""


@dataclass(slots=True)
class Staleness:
    """All samples."""

    lags: list[Lag] = field(default_factory=list)

    def by_kind(self) -> dict[str, tuple[int, float, float, float]]:
        """Return by kind of fault: the number of samples; p99 and worst of answers not STALE; worst of all. Seconds."""
        groups: dict[str, list[Lag]] = defaultdict(list)
        for lag in self.lags:
            for kind in lag.kinds or (QUIET,):
                groups[kind].append(lag)
        return {kind: _figures(groups[kind]) for kind in sorted(groups, key=lambda kind: (kind != QUIET, kind))}

    def total(self) -> tuple[int, float, float, float]:
        """Return the same figures over everything."""
        return _figures(self.lags)

    def foreign_in_quiet(self) -> tuple[int, float, float, float]:
        """Return the same figures for foreign changes without any fault."""
        return _figures([lag for lag in self.lags if lag.foreign and not lag.kinds])


def _figures(lags: list[Lag]) -> tuple[int, float, float, float]:
    if not lags:
        return 0, 0.0, 0.0, 0.0
    unsaid = np.array([lag.unsaid_s for lag in lags])
    return len(lags), float(np.quantile(unsaid, 0.99)), float(unsaid.max()), max(lag.seconds for lag in lags)


def lags_of(answers: Answers, story: Story, calm: Calm) -> Iterator[Lag]:
    """Return one sample for each acknowledged change of a flag and each process that lived through its answer."""
    moments = [
        (version.write.end if version.write else version.known, place, version.foreign is not None)
        for place, version in enumerate(answers.timeline.versions)
        if (version.write and version.write.acknowledged) or (version.foreign and version.foreign.done)
    ]
    for number, mine in answers.by_incarnation():
        incarnation = story.incarnations[number]
        stale = says_stale(mine.rows, story.bound_s)
        for moment, place, foreign in moments:
            if _answered(incarnation, moment):
                last, unsaid = _last_old(mine, stale, moment, place)
                kinds = tuple(sorted({fault.kind for fault in calm.during(moment, max(moment, last))}))
                yield Lag(max(0.0, last - moment), max(0.0, unsaid - moment), foreign, kinds)


def _answered(incarnation: Incarnation, moment: float) -> bool:
    return incarnation.ready <= moment <= incarnation.ended


def _last_old(answers: Answers, stale: Column, moment: float, place: int) -> tuple[float, float]:
    """Return the end of the last older answer that started after a moment, and of the last not STALE."""
    first = int(np.searchsorted(answers.rows["start"], moment, side="right"))
    old, ends = answers.high[first:] < place, answers.rows["end"][first:]
    unsaid = old & ~stale[first:]
    return float(ends[old].max(initial=-NEVER)), float(ends[unsaid].max(initial=-NEVER))
