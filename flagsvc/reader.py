"""Answers "what is this flag?": near cache, then the shared cache, then the store; one flight per key.

Knows no grpc, redis or motor. While the near cache is complete and fresh an answer costs no I/O, unknown keys included.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from flagsvc.core.errors import FlagNotFound, StoreUnavailable
from flagsvc.core.evaluation import (
    NOT_FOUND,
    NOT_READY,
    Explanation,
    Outcome,
    Reason,
    ValueType,
    check_type,
    explain,
)
from flagsvc.core.model import Attributes, Flag, FlagId, HistoryEntry
from flagsvc.core.targeting import FRACTIONAL_VERSION
from flagsvc.flight import Flights
from flagsvc.follower import Follower
from flagsvc.near import Held, NearCache, Source, in_list_order
from flagsvc.ports import Entry, FlagCache, FlagStore

KNOWN_WAIT_S = 0.05
"""How long an evaluation waits for news when it already holds an answer."""
UNKNOWN_WAIT_S = 4.0
"""How long it waits when it holds none; the stores' own time-outs are shorter."""


@dataclass(slots=True)
class Tally:
    """Lookups by the tier that answered, for metrics."""

    near: int = 0
    cache: int = 0
    store: int = 0
    stale: int = 0


class Answer(NamedTuple):
    """A definition as found. `held` None: this replica could find out nothing."""

    held: Held | None
    source: Source
    age_s: float
    stale: bool = False


class Evaluation(NamedTuple):
    """An outcome with where its definition came from."""

    flag_id: FlagId
    outcome: Outcome
    flag: Flag | None
    revision: int
    source: Source
    age_s: float


class Reader:
    """The read side of one replica."""

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        follower: Follower,
        *,
        fractional_version: int = FRACTIONAL_VERSION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the seconds since 1970 that rules read as `$flagd.timestamp`."""
        self._near, self._store, self._cache, self._follower = near, store, cache, follower
        self._fractional_version, self._clock = fractional_version, clock
        self._flights: Flights[FlagId, Answer] = Flights()
        self._loads: Flights[str, list[Flag]] = Flights()
        self.tally = Tally()

    async def evaluate(self, flag_id: FlagId, context: Attributes, wanted: ValueType | None = None) -> Evaluation:
        """Evaluate one flag; never raises for a flag that is unknown, broken or out of reach."""
        answer = self._from_near(flag_id)
        if answer is None:
            answer = await self._answer(flag_id)
        else:
            self.tally.near += 1
        return _evaluated(flag_id, answer, context, self._clock(), wanted)

    async def explain(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None = None
    ) -> tuple[Evaluation, Explanation]:
        """Evaluate one flag and tell how the outcome came about."""
        evaluation = await self.evaluate(flag_id, context, wanted)
        if evaluation.flag is None:
            return evaluation, Explanation(evaluation.outcome.message, {}, ())
        _, explanation = explain(evaluation.flag, context, self._clock(), self._fractional_version)
        return evaluation, explanation

    async def evaluate_all(self, flag_set: str, keys: Sequence[str], context: Attributes) -> list[Evaluation]:
        """Evaluate several flags of a set for one context; without keys all of them, in list order."""
        ids = [FlagId(flag_set, key) for key in keys or [flag.key for flag in await self.flags(flag_set)]]
        near = [self._from_near(flag_id) for flag_id in ids]
        missing = [i for i, answer in zip(ids, near, strict=True) if answer is None]
        self.tally.near += len(ids) - len(missing)
        asked = iter(await asyncio.gather(*map(self._answer, missing)))
        now = self._clock()
        return [_evaluated(i, answer or next(asked), context, now) for i, answer in zip(ids, near, strict=True)]

    async def get(self, flag_id: FlagId) -> tuple[Flag, Answer]:
        """Give a definition. Raises FlagNotFound, or StoreUnavailable when nothing is known."""
        answer = self._from_near(flag_id) or await self._answer(flag_id)
        if answer.held is None:
            raise StoreUnavailable
        if answer.held.entry.flag is None:
            raise FlagNotFound(flag_id.key)
        return answer.held.entry.flag, answer

    async def flags(self, flag_set: str) -> list[Flag]:
        """Give a whole set in list order; reads the store only when the near cache cannot answer."""
        await self._first_load()
        if self._near.complete and (self._fresh_view() or not self._follower.store_up):
            return self._near.flags(flag_set)
        if (earlier := self._loads.current(flag_set)) is not None:
            await asyncio.wait([earlier])  # it began before this call: it may not have what was written since
        return await asyncio.shield(self._loads.start(flag_set, lambda: self._load(flag_set)))

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes."""
        return await self._store.history(flag_id, limit)

    async def close(self) -> None:
        """Cancel reads under way."""
        await self._flights.close()
        await self._loads.close()

    async def _answer(self, flag_id: FlagId) -> Answer:
        await self._first_load()
        if (answer := self._from_near(flag_id)) is not None:
            self.tally.near += 1
            return answer
        held = self._near.get(flag_id)
        known = held is not None or self._near.complete
        flight = self._flights.start(flag_id, lambda: self._fetch(flag_id))
        done, _ = await asyncio.wait([flight], timeout=KNOWN_WAIT_S if known else UNKNOWN_WAIT_S)
        if done and not flight.cancelled() and flight.exception() is None:
            return flight.result()
        return self._last_known(flag_id)

    def _from_near(self, flag_id: FlagId) -> Answer | None:
        """Give what may be served without asking."""
        near = self._near
        held = near.get(flag_id)
        if held is None and not near.complete:
            return None
        now = time.monotonic()
        confirmed_at = near.confirmed(held)
        if not near.is_fresh(confirmed_at, now):
            return None
        return Answer(held or _absent(flag_id, now), Source.NEAR, now - confirmed_at)

    async def _first_load(self) -> None:
        """Let the load at start-up answer for everybody instead of asking key by key."""
        if not self._follower.tried.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._follower.tried.wait(), UNKNOWN_WAIT_S)

    async def _fetch(self, flag_id: FlagId) -> Answer:
        if self._cache is not None and self._cache.available:
            [entry] = await self._cache.get([flag_id])
            if entry is not None:
                self.tally.cache += 1
                return self._take(entry, Source.CACHE)
        if not self._follower.store_up:
            return self._last_known(flag_id)
        asked_at = time.monotonic()
        flag = await self._store.get(flag_id)
        self.tally.store += 1
        entry = Entry.of(flag) if flag else Entry.absent(flag_id)
        answer = self._take(entry, Source.STORE, asked_at)
        if self._cache is not None and self._cache.available:
            await self._cache.put([entry])
        return answer

    def _take(self, entry: Entry, source: Source, asked_at: float | None = None) -> Answer:
        now = time.monotonic()
        held = self._near.apply(entry, now if asked_at is None else asked_at, in_order=False)
        return Answer(held, source if held.entry == entry else Source.NEAR, now - held.confirmed_at)

    def _last_known(self, flag_id: FlagId) -> Answer:
        held, now = self._near.get(flag_id), time.monotonic()
        self.tally.stale += 1
        if held is None and self._near.complete:
            held = _absent(flag_id, self._near.confirmed_at)
        if held is None:
            return Answer(None, Source.NEAR, 0.0, stale=True)
        confirmed_at = self._near.confirmed(held)
        return Answer(held, Source.NEAR, now - confirmed_at, stale=not self._near.is_fresh(confirmed_at, now))

    def _fresh_view(self) -> bool:
        return self._near.is_fresh(self._near.confirmed_at, time.monotonic())

    async def _load(self, flag_set: str) -> list[Flag]:
        asked_at = time.monotonic()
        contents = await self._store.load()
        self._near.merge(contents, asked_at)
        if self._near.complete:
            return self._near.flags(flag_set)  # which never went back, whatever came while the store was read
        return in_list_order(flag for flag in contents.flags if flag.flag_set == flag_set)


def _absent(flag_id: FlagId, confirmed_at: float) -> Held:
    return Held(Entry.absent(flag_id), confirmed_at)


def _evaluated(
    flag_id: FlagId, answer: Answer, context: Attributes, now: float, wanted: ValueType | None = None
) -> Evaluation:
    if answer.held is None:
        return Evaluation(flag_id, NOT_READY, None, 0, answer.source, 0.0)
    entry, prepared = answer.held.entry, answer.held.prepared
    outcome = prepared.fixed or prepared.evaluate(context, now)
    if wanted is not None:
        outcome = check_type(outcome, wanted)
    if answer.stale and outcome.error_code is None and outcome is not NOT_FOUND:
        outcome = replace(outcome, reason=Reason.STALE)
    return Evaluation(flag_id, outcome, entry.flag, entry.revision, answer.source, answer.age_s)
