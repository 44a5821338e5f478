"""Answers "what is this flag?" and evaluates it: from the near cache without asking, else by a lookup.

While the near cache is complete and fresh an answer costs no I/O, unknown keys included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flagsvc.core.errors import FlagNotFound, StoreUnavailable
from flagsvc.core.evaluation import (
    NOT_FOUND,
    NOT_READY,
    Explanation,
    Outcome,
    Prepared,
    Reason,
    ValueType,
    check_type,
    explain,
)
from flagsvc.core.family import evaluate_family
from flagsvc.core.family_explanation import explain_family
from flagsvc.core.lint import lint
from flagsvc.core.model import Attributes, Flag, FlagId, HistoryEntry, JsonValue, Status
from flagsvc.ports import Entry, FlagCache, FlagStore
from flagsvc.replication.follower import Follower
from flagsvc.serving.expensive_rules import ExpensiveRules
from flagsvc.serving.families import Families, Members, SetMoment
from flagsvc.serving.lookup import Answer, Lookup, LookupStats
from flagsvc.serving.set_lookup import SetLookup
from flagsvc.turns import in_turns, off_loop
from flagsvc.view.entries import Source
from flagsvc.view.near_cache import NearCache
from flagsvc.view.set_order import Position

PREREQUISITE_FAILED = "prerequisiteFailed"
"""The metadata of an answer that is as if disabled: the key of the flag because of which it is."""


class Evaluation(NamedTuple):
    """An outcome with where its definition came from.

    `replies`: the answers that are kept of the definition; None where an answer depends on more than the definition.
    """

    flag_id: FlagId
    outcome: Outcome
    flag: Flag | None
    revision: int
    source: Source
    age_s: float
    replies: dict[Any, tuple[bytes, ...]] | None = None

    @property
    def is_disabled(self) -> bool:
        """Whether an answer without a value has none because the flag is disabled; the reason STALE hides that."""
        outcome, flag = self.outcome, self.flag
        return outcome.reason is Reason.DISABLED or (
            outcome.reason is Reason.STALE
            and flag is not None
            and (flag.status != Status.ENABLED or outcome.failed_prerequisite is not None)
        )

    @property
    def metadata(self) -> Mapping[str, JsonValue]:
        """The flag's metadata, and what has failed."""
        own = self.flag.metadata if self.flag is not None else {}
        failed = self.outcome.failed_prerequisite
        return own if failed is None else {**own, PREREQUISITE_FAILED: failed}


class Reader:
    """The read side of one replica.

    `min_revision`, where it can be given: the answer contains every change of the flag set up to it, or
    RevisionUnavailable is raised.
    """

    def __init__(
        self,
        near: NearCache,
        store: FlagStore,
        cache: FlagCache | None,
        follower: Follower,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the seconds since 1970 that rules read as `$flagd.timestamp`."""
        self._store, self._lookup = store, Lookup(near, store, cache, follower)
        self._sets = SetLookup(near, store, follower, self._lookup)
        self._near, self._families = near, Families(near, store, follower, self._lookup)
        self._clock = clock
        self.expensive_rules = ExpensiveRules(near)
        self.other_stats: list[LookupStats] = []
        """Lookups of other threads."""

    @property
    def stats(self) -> LookupStats:
        """Lookups by the tier that answered."""
        return self._lookup.stats

    @property
    def all_stats(self) -> LookupStats:
        """Lookups of all threads."""
        own, near = self.stats, sum(stats.near for stats in self.other_stats)
        return replace(own, near=own.near + near)

    async def evaluate(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None = None, min_revision: int = 0
    ) -> Evaluation:
        """Evaluate one flag; never raises for a flag that is unknown, broken or out of reach."""
        answer = self._lookup.cached(flag_id, min_revision)
        if answer is None:
            answer = await self._lookup.get(flag_id, min_revision)
        held = answer.held
        if held is not None and held.compiled is None:
            await held.compile()
            if held.compiled is None:
                members = await self._families.find(flag_id, min_revision)
                return await self._of_family(flag_id, members, context, None, wanted)
        return self._evaluated(flag_id, answer, context, self._clock(), wanted)

    def evaluate_at_once(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None = None, min_revision: int = 0
    ) -> Evaluation | None:
        """Evaluate one flag from memory; None if `evaluate` has to look it up or to compile it first."""
        answer = self._lookup.cached(flag_id, min_revision)
        if answer is None or answer.held is None:
            return None
        if answer.held.compiled is None:
            self.stats.near -= 1  # `evaluate` counts it
            return None
        return self._evaluated(flag_id, answer, context, self._clock(), wanted)

    async def may_be_public(self, flag_id: FlagId, min_revision: int = 0) -> bool:
        """Whether a flag exists and is public; also true where that cannot be known now."""
        [answer] = await self._lookup.get_many([flag_id], min_revision)
        return answer.held is None or answer.held.entry.is_public

    async def explain(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None = None, min_revision: int = 0
    ) -> tuple[Evaluation, Explanation]:
        """Evaluate one flag and tell how the outcome came about."""
        evaluation = await self.evaluate(flag_id, context, wanted, min_revision)
        if evaluation.flag is None:
            return evaluation, Explanation(evaluation.outcome.message, {}, ())
        if not evaluation.flag.prerequisites:
            return evaluation, await off_loop(explained, evaluation.flag, dict(context), self._clock())
        members, now = await self._families.find(flag_id, min_revision), self._clock()
        if members is None:
            return evaluation, Explanation(evaluation.outcome.message, {}, ())
        evaluation = await self._of_family(flag_id, members, context, now, wanted)
        return evaluation, await off_loop(explained_family, flag_id.key, members.flags(), dict(context), now)

    async def evaluate_all(
        self, flag_set: str, keys: Sequence[str], context: Attributes, min_revision: int = 0
    ) -> list[Evaluation]:
        """Evaluate several flags of a set for one context and one time.

        Each key is evaluated once, however often it is asked for, and answered at each of its positions.
        """
        ids = [FlagId(flag_set, key) for key in dict.fromkeys(keys)]
        found, now = await self._lookup.get_many(ids, min_revision), self._clock()
        at = SetMoment(self._near.moment_of(flag_set), Source.NEAR, min_revision)
        asked = in_turns(zip(ids, found, strict=True))
        by_key = {i.key: await self._evaluate_found(i, answer, context, now, at) async for i, answer in asked}
        return [by_key[key] for key in keys]

    async def evaluate_set(
        self, flag_set: str, context: Attributes, min_revision: int = 0, *, only_public: bool = False
    ) -> AsyncIterator[Evaluation]:
        """Evaluate all flags of a set, or those that are public, for one context and one time, in list order, in turns.

        The definitions are of one moment. No more than one evaluation exists at a time, so that a large set leaves
        neither the garbage collector nor the memory much to do.
        """
        now: float | None = None
        found = await self._sets.get_all(flag_set, min_revision)
        at = SetMoment(found.moment, found.source, min_revision)
        async for answer in found.answers:
            now = self._clock() if now is None else now
            if only_public and not answer.entry.is_public:
                continue
            yield await self._evaluate_found(answer.entry.id, answer, context, now, at)

    async def _evaluate_found(
        self, flag_id: FlagId, answer: Answer, context: Attributes, now: float, at: SetMoment
    ) -> Evaluation:
        """Evaluate one of several definitions, with those that it depends on as they were when all were found."""
        held = answer.held
        if held is not None and held.compiled is None:
            await held.compile()
            if held.compiled is None:
                members = await self._families.find_at(at, flag_id)
                return await self._of_family(flag_id, members, context, now)
        return self._evaluated(flag_id, answer, context, now)

    async def _of_family(
        self,
        flag_id: FlagId,
        members: Members | None,
        context: Attributes,
        now: float | None,
        wanted: ValueType | None = None,
    ) -> Evaluation:
        """Evaluate a definition that depends on others; `now` None: at the time when they are compiled."""
        if members is None:
            return Evaluation(flag_id, NOT_READY, None, 0, Source.NEAR, 0.0)
        await members.compile()
        outcome = evaluate_family(flag_id.key, members.prepared, context, self._clock() if now is None else now)
        held = members.entries.get(flag_id.key)
        entry = held.entry if held is not None else Entry.absent(flag_id)
        if outcome.over_budget:
            self.expensive_rules.note(flag_id, entry.revision)
        if wanted is not None:
            outcome = check_type(outcome, wanted)
        if members.stale and outcome.error_code is None:
            outcome = replace(outcome, reason=Reason.STALE)
        replies = members.replies(flag_id.key, outcome)
        return Evaluation(flag_id, outcome, entry.flag, entry.revision, members.source, members.age_s, replies)

    def _evaluated(
        self, flag_id: FlagId, answer: Answer, context: Attributes, now: float, wanted: ValueType | None = None
    ) -> Evaluation:
        """Evaluate a definition that is compiled."""
        held, source, age_s, stale = answer
        if held is None:
            return Evaluation(flag_id, NOT_READY, None, 0, source, 0.0)
        entry, prepared = held.entry, held.compiled or held.prepared
        outcome = prepared.fixed or prepared.evaluate(context, now)
        if outcome.over_budget:
            self.expensive_rules.note(flag_id, entry.revision)
        if wanted is not None:
            outcome = check_type(outcome, wanted)
        if stale and outcome.error_code is None and outcome is not NOT_FOUND:
            outcome = replace(outcome, reason=Reason.STALE)
        replies = held.replies if source is Source.NEAR and not stale else None
        return Evaluation(flag_id, outcome, entry.flag, entry.revision, source, age_s, replies)

    async def get(self, flag_id: FlagId, min_revision: int = 0) -> tuple[Flag, Answer]:
        """Return a definition. Raises FlagNotFound, or StoreUnavailable when nothing is known."""
        [answer] = await self._lookup.get_many([flag_id], min_revision)
        if answer.held is None:
            raise StoreUnavailable
        if answer.held.entry.flag is None:
            raise FlagNotFound(flag_id.key)
        return answer.held.entry.flag, answer

    async def family(self, flag_id: FlagId) -> dict[str, tuple[Flag, Prepared]]:
        """Return a flag and those that it depends on, as of one moment, by key; none where nothing is known."""
        members = await self._families.find(flag_id)
        if members is None:
            return {}
        await members.compile()
        return {key: (flag, members.entries[key].prepared) for key, flag in members.flags().items()}

    async def flags(self, flag_set: str) -> Iterator[Flag]:
        """Return a whole set as of this moment, in list order; reads the store only when the near cache cannot answer.

        The flags are looked up one by one as they are needed, so a large set takes no time at once.
        """
        listing = await self._sets.get_set(flag_set)
        return (held.entry.flag for held in listing if held.entry.flag is not None)

    async def flags_as_of(self, flag_set: str, min_revision: int) -> list[Flag]:
        """Return a whole set with every change up to a revision. Raises StoreUnavailable and RevisionUnavailable."""
        found = await self._sets.get_all(flag_set, min_revision)
        return [answer.entry.flag async for answer in found.answers if answer.entry.flag is not None]

    async def page(self, flag_set: str, after: Position | None, size: int) -> list[Flag]:
        """Return at most so many flags of a set after a position in list order (None: from the first)."""
        held = await self._sets.get_page(flag_set, after, size)
        return [each.entry.flag for each in held if each.entry.flag is not None]

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's newest changes."""
        return await self._store.history(flag_id, limit)

    async def close(self) -> None:
        """Cancel reads under way."""
        await asyncio.gather(self._lookup.close(), self._sets.close(), self._families.close())


def explained(flag: Flag, context: Attributes, now: float) -> Explanation:
    """Tell how an outcome comes about, with notes on what is most likely not meant."""
    _, explanation = explain(flag, context, now)
    return replace(explanation, notes=tuple(map(str, lint(flag))))


def explained_family(key: str, flags: Mapping[str, Flag], context: Attributes, now: float) -> Explanation:
    """Tell the same of a flag with prerequisites. `flags`: it and those that it depends on, by key."""
    explanation = explain_family(key, flags, context, now)
    return replace(explanation, notes=(*explanation.notes, *map(str, lint(flags[key]))))
