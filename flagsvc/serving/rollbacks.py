"""Restores definitions that flags had: one flag, or all of a set that have changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flagsvc.core import changes
from flagsvc.core.changes import Author, Decide
from flagsvc.core.errors import NotRestorable
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.core.revisions.model import MAX_ROLLED_BACK, AsOf, Recorded, via_revision
from flagsvc.core.shown_text import visible
from flagsvc.core.sizes import estimated_memory
from flagsvc.ports.revisions import DecideAll
from flagsvc.serving.past import Past

MAX_MEMORY = 33_554_432
"""Memory of the flags that one rollback of a set changes, as estimated: they are written in one transaction."""


async def rollback_of(past: Past, flag_id: FlagId, revision: int, expected: int | None, author: Author) -> Decide:
    """Return the decision that gives a flag the definition of a revision back.

    Raises FlagNotFound where the flag did not exist then, RevisionOutOfRange, NotRestorable and StoreUnavailable.
    """
    found = await past.get(flag_id, AsOf(revision))
    return changes.restore(_restorable(found, revision), expected, replace(author, via=via_revision(revision)))


def set_rollback(revision: int, author: Author) -> DecideAll:
    """Return the decision about a set: flags that were changed get their definition back, new ones are deleted."""
    author = replace(author, via=via_revision(revision))

    def decide(past: Mapping[str, Recorded], current: Mapping[str, Flag]) -> list[Change]:
        found = []
        for key in sorted({*past, *current}):
            was = past[key].flag if key in past else None
            if (change := _change(key, was, current.get(key), revision, author)) is not None:
                found.append(change)
        if len(found) > MAX_ROLLED_BACK:
            raise NotRestorable(f"{len(found)} flags would change, and at most {MAX_ROLLED_BACK} can at a time")
        if sum(estimated_memory(change.after) + estimated_memory(change.before) for change in found) > MAX_MEMORY:
            raise NotRestorable("the flags that would change are too large for one transaction; roll back flag by flag")
        return found

    return decide


def _change(key: str, was: Flag | None, current: Flag | None, revision: int, author: Author) -> Change | None:
    """Return what makes a flag as it was; None where it is so."""
    if was is None:
        return changes.delete(key, None, author)(current) if current is not None else None
    change = changes.restore(_restorable(was, revision), None, author)(current)
    return change if change is not None and (change.before is None or change.new) else None


def _restorable(flag: Flag, revision: int) -> Flag:
    if flag.problem:
        raise NotRestorable(f'flag "{visible(flag.key)}" cannot be restored as of revision {revision}: {flag.problem}')
    return flag
