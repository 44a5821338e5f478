"""Changes how a flag set's splits choose: first what later writes get, then each definition that has another version.

The store gives every definition its set's version together with its revision. So once the version is stored, a
definition with the old one has a revision of before, and reading the set as of the counter finds all of them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from flagsvc.core.bucketing import follow_set, moving_keys
from flagsvc.core.changes import Author
from flagsvc.core.model import FlagId
from flagsvc.ports import FlagStore
from flagsvc.serving.reader import Reader
from flagsvc.serving.writer import Writer
from flagsvc.turns import off_loop

MAX_LISTED = 1_000
"""Flags that an answer names."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BucketingReport:
    """`bucketing`: the set's version, before a change. `moved`: keys of the flags that have, or had, another one.

    `done`: whether nothing is left to change. `revision`: of the last change made.
    """

    bucketing: int
    moved: list[str]
    done: bool = False
    revision: int = 0


class Bucketings:
    """Reads and changes the bucketing of flag sets; one change at a time."""

    def __init__(self, store: FlagStore, reader: Reader, writer: Writer) -> None:
        self._store, self._reader, self._writer = store, reader, writer
        self._turn = asyncio.Lock()

    async def read(self, flag_set: str) -> BucketingReport:
        """Return a set's version and the flags that lack it. Raises StoreUnavailable."""
        version = await self._store.bucketing(flag_set)
        return BucketingReport(version, await self._outdated(flag_set, version))

    async def change(self, flag_set: str, version: int, author: Author, *, force: bool) -> BucketingReport:
        """Change a set; without `force` only say what moves, and done where it has the version already.

        A change that breaks off, because the caller left or the store cannot be reached, ends with the next one.
        Raises StoreUnavailable and WritesUnsupported.
        """
        async with self._turn:
            before = await self._store.bucketing(flag_set)
            moved = await self._outdated(flag_set, version)
            if not force or (before == version and not moved):
                return BucketingReport(before, moved, done=before == version and not moved)
            await self._store.set_bucketing(flag_set, version)
            log.warning("bucketing_changed", flag_set=flag_set, before=before, bucketing=version, actor=author.actor)
            revision, decide = 0, follow_set(version, author)
            moved = await self._outdated(flag_set, version)
            for key in moved:
                written = await self._writer.write(FlagId(flag_set, key), decide)
                revision = written.entry.revision if written is not None else revision
            return BucketingReport(before, moved, done=True, revision=revision)

    async def _outdated(self, flag_set: str, version: int) -> list[str]:
        """Return the keys of the flags that have another version than the set is to have, as of the store's counter."""
        revision = (await self._store.revisions()).get(flag_set, 0)
        flags = await self._reader.flags_as_of(flag_set, revision)
        return await off_loop(moving_keys, flags, version)
