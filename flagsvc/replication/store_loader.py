"""Reads the whole store into the near cache, and compiles what was read."""

from __future__ import annotations

import asyncio
import time

from flagsvc import collector
from flagsvc.background import BackgroundTasks
from flagsvc.ports import NEVER, FlagStore, StoreContents, UnversionedChange
from flagsvc.replication.poll_timer import PollTimer
from flagsvc.replication.view_proof import ViewProof
from flagsvc.turns import emptied, free_in_turns, in_turns, run_in_turns
from flagsvc.view.near_cache import NearCache

MAX_LOAD_PAUSE_S = 1.0
"""Longest that a load waits where callers need the whole store again and again: else as long as the last one took."""


class StoreLoader:
    """Loads one after the other. `loads` counts them; `took_s`: how long the last one took."""

    def __init__(self, near: NearCache, store: FlagStore, proof: ViewProof, timer: PollTimer) -> None:
        self._near, self._store, self._proof, self._timer = near, store, proof, timer
        self._loading, self._merging = asyncio.Lock(), asyncio.Lock()
        self._tasks = BackgroundTasks()
        self._compiling: asyncio.Task[None] | None = None
        self._ended_at = NEVER
        self.took_s = 0.0
        self.loads = 0

    @property
    def is_compiled(self) -> bool:
        """Whether everything that was loaded is compiled."""
        return self._compiling is not None and self._compiling.done()

    async def close(self) -> None:
        """Stop compiling."""
        await self._tasks.close()

    async def load_for_caller(self) -> StoreContents:
        """Read the whole store for a caller, and hold it where there is room. Raises StoreUnavailable.

        After a long load the next one waits, so that callers do not make the replica load all the time.
        """
        pause_s = self._ended_at + min(self.took_s, MAX_LOAD_PAUSE_S) - time.monotonic()
        await asyncio.sleep(max(0.0, pause_s))
        return await self._load_all()

    async def load(self) -> None:
        """Read everything; where there is no room for it, only the counters. Raises StoreUnavailable."""
        if not self._near.partial.is_needed:
            contents = await self._load_all()
            if isinstance(contents.flags, list):
                free_in_turns(contents.flags)  # the store made the list for this load
            return
        asked_at, held = time.monotonic(), self._proof.held_revisions()
        revisions = await self._store.revisions()
        if self._proof.is_continued(revisions, held):
            self._near.mark_gap(revisions, asked_at)
            self._proof.mark_loaded(asked_at)

    async def start_over(self) -> int:
        """Hold what the store has and nothing else, also where that is older. Return how many flags that is."""
        async with self._loading, self._merging:
            asked_at = time.monotonic()
            with collector.paused(), self._near.starting_over(asked_at):
                contents = await self._store.load()
                self.loads += 1
                await run_in_turns(self._near.resyncing(contents, asked_at, time.monotonic()))
                if not self._near.complete:
                    await run_in_turns(self._near.noting_rollouts(contents.flags))
                collector.freeze_load()
        self._compile_soon()
        self._proof.mark_loaded(asked_at)
        flags = len(contents.flags)
        if isinstance(contents.flags, list):
            free_in_turns(contents.flags)  # the store made the list for this load
        return flags

    async def restore(self, contents: StoreContents, age_s: float) -> None:
        """Hold a snapshot's contents until the store is read."""
        async with self._merging:
            await run_in_turns(self._near.restoring(contents, age_s, time.monotonic()))

    async def _load_all(self) -> StoreContents:
        async with self._loading:  # two loads would be merged into each other
            fills = not self._near.partial.is_needed and (not self._near.complete or self._near.restored)
            with collector.paused() if fills else collector.young_only():
                contents = await self._load_and_merge()
                if fills:
                    collector.freeze_load()
            return contents

    async def _load_and_merge(self) -> StoreContents:
        asked_at, held = time.monotonic(), self._proof.held_revisions()
        contents = await self._store.load()
        self.loads += 1
        is_continued = self._proof.is_continued(contents.revisions, held)
        if not is_continued:
            self._timer.poll_now()
        elif not self._near.partial.is_needed:
            contents = await self._with_missing(contents)
            unversioned: list[UnversionedChange] = []
            async with self._merging:
                await run_in_turns(self._near.merging(contents, asked_at, time.monotonic(), unversioned))
            for change in unversioned:
                if not self._proof.hints.has(change.id):  # what a message claims is no reason to write to the store
                    self._proof.assign_revision(change)
            self._proof.mark_loaded(asked_at)
            self._compile_soon()
        if is_continued and not self._near.complete:
            await run_in_turns(self._near.noting_rollouts(contents.flags))
        self._ended_at = time.monotonic()
        self.took_s = self._ended_at - asked_at
        return contents

    async def _with_missing(self, contents: StoreContents) -> StoreContents:
        """Look up once more what was not found: deleted after the counters were read, it has a later revision."""
        found = {flag.id async for flag in in_turns(contents.flags)}
        held = (entry.entry.id async for entry in in_turns(self._near.flags()))
        missing = [i async for i in held if i not in found and self._near.has_flag(i)]
        await run_in_turns(emptied(found))
        if not missing:
            return contents
        entries = await asyncio.gather(*map(self._store.get, missing))
        absent = {entry.id: entry.revision for entry in entries if entry.flag is None}
        flags = [*contents.flags, *(entry.flag for entry in entries if entry.flag is not None)]
        return StoreContents(flags, contents.revisions, absent)

    def _compile_soon(self) -> None:
        """Compile in the background what was loaded, so that evaluations find it compiled."""
        if self._compiling is None or self._compiling.done():
            self._compiling = self._tasks.begin(self._compile_all(), "compile")

    async def _compile_all(self) -> None:
        compiled = 0
        async for held in in_turns(self._near.flags()):
            if not held.is_compiled and self._near.peek(held.entry.id) is held:
                await held.compile()
                compiled += 1
                if compiled % collector.FREEZE_EVERY == 0:
                    collector.freeze()
