"""Definitions and evaluations as of another moment: from the revisions of the store, never from a cache.

A moment to come has the definitions of now and what pending schedules make of them by then, with its time for
`$flagd.timestamp`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from flagsvc.core.errors import FlagNotFound, RevisionsMissing
from flagsvc.core.evaluation import NO_FLAG, Explanation, Prepared, ValueType, check_type, prepare
from flagsvc.core.family import MAX_MEMBERS, evaluate_family
from flagsvc.core.model import Attributes, Flag, FlagId
from flagsvc.core.prerequisites import keys_in
from flagsvc.core.revisions.model import AsOf, Moment, Recorded
from flagsvc.core.schedules.model import Schedule, State
from flagsvc.core.schedules.preview import previewed
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports import FlagStore
from flagsvc.ports.revisions import RevisionStore
from flagsvc.ports.schedules import ScheduleQuery
from flagsvc.serving.reader import Evaluation, explained_family
from flagsvc.serving.reader import explained as explanation_of
from flagsvc.turns import in_turns, off_loop
from flagsvc.view.entries import Source

MAX_READS = 8
"""Calls about another moment that read the store at a time; others wait."""
MAX_COMPILED, MAX_COMPILED_MEMORY = 256, 262_144
"""Definitions that are kept compiled, and the memory of one that is, as estimated."""
_BATCH = 100
Planned = Mapping[str, Sequence[Schedule]]
"""Schedules by the key of their flag."""


class Past:
    """Answers as of another moment."""

    def __init__(self, store: FlagStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._reads = asyncio.Semaphore(MAX_READS)
        self._compiled: OrderedDict[tuple[FlagId, int], tuple[Flag, Prepared]] = OrderedDict()

    async def evaluate(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None, as_of: AsOf, *, explained: bool = False
    ) -> tuple[Evaluation, Explanation | None, Moment]:
        """Evaluate one flag, and tell how the outcome came about if wanted.

        Raises RevisionOutOfRange, RevisionsMissing and StoreUnavailable.
        """
        async with self._reads:
            moment = await self._moment(flag_id.flag_set, as_of)
            planned = await self._planned(flag_id, moment.at)
            flags = await self._flags(flag_id.flag_set, [flag_id.key], moment, planned)
            flags = await self._with_parents(flag_id.flag_set, flags, moment, None)
        evaluation = await self._evaluated(flag_id, flags, context, moment, wanted)
        flag = evaluation.flag
        if not explained:
            return evaluation, None, moment
        if flag is None:
            return evaluation, Explanation(evaluation.outcome.message, {}, ()), moment
        now, key = moment.at.timestamp(), flag_id.key
        if flag.prerequisites:
            return evaluation, await off_loop(explained_family, key, flags, dict(context), now), moment
        return evaluation, await off_loop(explanation_of, flag, dict(context), now), moment

    async def evaluate_all(
        self, flag_set: str, keys: Sequence[str], context: Attributes, as_of: AsOf
    ) -> tuple[AsyncIterator[Evaluation], Moment]:
        """Evaluate several flags as of one moment, or without keys all that the set had then, by key.

        Raises as `evaluate`, also while the evaluations are read.
        """
        async with self._reads:
            moment = await self._moment(flag_set, as_of)
            wanted = list(keys) or await self._keys(flag_set, moment)
            planned = await self._planned(FlagId(flag_set, keys[0] if len(keys) == 1 else ""), moment.at)
        return self._each(flag_set, wanted, context, moment, planned, leave_out_missing=not keys), moment

    async def get(self, flag_id: FlagId, as_of: AsOf) -> Flag:
        """Return a definition. Raises FlagNotFound where the flag did not exist then, and as `evaluate`."""
        async with self._reads:
            moment = await self._moment(flag_id.flag_set, as_of)
            planned = await self._planned(flag_id, moment.at)
            flag = (await self._flags(flag_id.flag_set, [flag_id.key], moment, planned)).get(flag_id.key)
        if flag is None:
            raise FlagNotFound(flag_id.key)
        return flag

    async def revisions(self, flag_id: FlagId, below: int, size: int) -> list[Recorded]:
        """Return a flag's newest revisions below one (0: below none), without definitions."""
        async with self._reads:
            return await self._kept().page(flag_id, below, size)

    async def _each(
        self,
        flag_set: str,
        keys: Sequence[str],
        context: Attributes,
        moment: Moment,
        planned: Planned,
        *,
        leave_out_missing: bool,
    ) -> AsyncIterator[Evaluation]:
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            async with self._reads:
                flags = await self._flags(flag_set, list(dict.fromkeys(some)), moment, planned)
                flags = await self._with_parents(flag_set, flags, moment, planned if len(keys) > 1 else None)
            async for key in in_turns(some):
                if key in flags or not leave_out_missing:
                    yield await self._evaluated(FlagId(flag_set, key), flags, context, moment)

    async def _moment(self, flag_set: str, as_of: AsOf) -> Moment:
        if as_of.time is not None and self._is_to_come(as_of.time):
            return Moment((await self._store.revisions()).get(flag_set, 0), as_of.time)
        return await self._kept().moment(flag_set, as_of)

    async def _flags(self, flag_set: str, keys: Sequence[str], moment: Moment, planned: Planned) -> Mapping[str, Flag]:
        found = await self._kept().newest(flag_set, keys, moment)
        flags = {key: each.flag for key, each in found.items() if each.flag is not None}
        for key in flags.keys() & planned.keys():
            flags[key] = await off_loop(previewed, flags[key], planned[key])
        return flags

    async def _with_parents(
        self, flag_set: str, flags: Mapping[str, Flag], moment: Moment, planned: Planned | None
    ) -> Mapping[str, Flag]:
        """Return flags with all that they depend on, as of the same moment.

        `planned`: the schedules of the whole set; None where they are not read.
        """
        found, seen, wanted = dict(flags), set(flags), _parents_of(flags)
        while (wanted := wanted - seen) and len(seen) <= MAX_MEMBERS + len(flags):
            if planned is None:
                planned = await self._planned(FlagId(flag_set, ""), moment.at)
            more = await self._flags(flag_set, sorted(wanted), moment, planned)
            seen |= wanted
            found |= more
            wanted = _parents_of(more)
        return found

    async def _planned(self, flag_id: FlagId, until: datetime) -> Planned:
        """Return the schedules that are due by a time to come, by flag; of the whole set where the key is empty."""
        store = self._store.schedules
        if store is None or not self._is_to_come(until):
            return {}
        found: dict[str, list[Schedule]] = {}
        query = ScheduleQuery(flag_set=flag_id.flag_set, flag_key=flag_id.key, states=(State.PENDING,))
        while True:
            page = await store.page(query, _BATCH)
            for schedule in page:
                if schedule.execute_at <= until:
                    found.setdefault(schedule.flag_id.key, []).append(schedule)
            if len(page) < _BATCH or page[-1].execute_at > until:
                return found
            last = page[-1]
            query = replace(query, after=(int(last.execute_at.timestamp() * 1000), last.number))

    def _is_to_come(self, at: datetime) -> bool:
        return at > datetime.fromtimestamp(self._clock(), UTC)

    async def _keys(self, flag_set: str, moment: Moment) -> list[str]:
        return await self._kept().keys(flag_set, moment)

    def _kept(self) -> RevisionStore:
        if self._store.definitions is None:
            raise RevisionsMissing("flags are served from files, of which flagsvc keeps no revisions: use your own")
        return self._store.definitions

    async def _evaluated(
        self,
        flag_id: FlagId,
        flags: Mapping[str, Flag],
        context: Attributes,
        moment: Moment,
        wanted: ValueType | None = None,
    ) -> Evaluation:
        flag, now = flags.get(flag_id.key), moment.at.timestamp()
        prepared = await self._prepared(flag)
        if prepared.prerequisites:
            family = {flag_id.key: prepared}
            pending = list(prepared.parents)
            while pending and len(family) <= MAX_MEMBERS:
                if (key := pending.pop()) in flags and key not in family:
                    family[key] = await self._prepared(flags[key])
                    pending += family[key].parents
            outcome = evaluate_family(flag_id.key, family.get, context, now)
        else:
            outcome = prepared.fixed or prepared.evaluate(context, now)
        if wanted is not None:
            outcome = check_type(outcome, wanted)
        return Evaluation(flag_id, outcome, flag, flag.revision if flag else 0, Source.STORE, 0.0)

    async def _prepared(self, flag: Flag | None) -> Prepared:
        """Return a definition compiled: few of them are asked for again and again, with one context after the other."""
        if flag is None:
            return NO_FLAG
        place = flag.id, flag.revision
        found = self._compiled.get(place)
        if found is not None and found[0] == flag:
            return found[1]
        prepared = await off_loop(prepare, flag)
        if estimated_memory(flag) <= MAX_COMPILED_MEMORY:
            self._compiled[place] = flag, prepared
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return prepared


def _parents_of(flags: Mapping[str, Flag]) -> set[str]:
    return {key for flag in flags.values() if flag.prerequisites for key in keys_in(flag.prerequisites)}
