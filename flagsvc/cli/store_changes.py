"""Reads a store for an export, and plans and makes the changes of an import."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from flagsvc.cli.linked_import import parents_first
from flagsvc.core.changes import Author, Decide, delete
from flagsvc.core.errors import InvalidRequest, Violation, short_repr
from flagsvc.core.model import DEFAULT_BUCKETING, Change, Flag, FlagId
from flagsvc.ports import FlagCache, FlagStore
from flagsvc.replication.publish import WriteLevel, publish_change


class PlannedChange(NamedTuple):
    """A change to make; `decide` derives it from the flag's current state."""

    flag_id: FlagId
    decide: Decide


def effect(change: Change | None) -> str:
    """Return what a change does to its flag: `created`, `updated` or `deleted`; `unchanged` if there is no change."""
    if change is None:
        return "unchanged"
    return "deleted" if change.after is None else "created" if change.before is None else "updated"


async def load_flags(store: FlagStore) -> list[Flag]:
    """Open a store, read all flags, and close it."""
    await store.open()
    try:
        return list((await store.load()).flags)
    finally:
        await store.close()


async def was_used(store: FlagStore) -> bool:
    """Whether a store has a flag, or had one that was deleted since."""
    await store.open()
    try:
        contents = await store.load()
        return bool(contents.flags) or any(contents.revisions.values())
    finally:
        await store.close()


def bucketings_of(flags: Iterable[Flag]) -> dict[str, int]:
    """Return the bucketing that a file asks for, by flag set; a set for which it asks for none is left out."""
    return {flag.flag_set: flag.bucketing for flag in flags if flag.bucketing != DEFAULT_BUCKETING}


class Bucketings(Protocol):
    """Has the bucketing of each flag set. Every store does."""

    async def revisions(self) -> Mapping[str, int]:
        """Return a revision for each set that is in use."""

    async def bucketing(self, flag_set: str) -> int:
        """Return the bucketing of a set."""

    async def set_bucketing(self, flag_set: str, version: int) -> Any:
        """Change the bucketing of a set."""


async def adopt_bucketings(asked_for: Mapping[str, int], store: Bucketings) -> None:
    """Give new flag sets the bucketing that a file asks for. Raises InvalidRequest where a set in use has another one.

    Otherwise people would get other variants of the file's flags than where the file comes from.
    """
    revisions = await store.revisions()
    found = {flag_set: await store.bucketing(flag_set) for flag_set in asked_for}
    cure = "change the set first (flagsvc bucketing VERSION --flag-set SET --force), or the file"
    other = [
        Violation(f"the bucketing of the file for flag set {short_repr(name)}", str(version), f"{found[name]}: {cure}")
        for name, version in asked_for.items()
        if found[name] != version and revisions.get(name)
    ]
    if other:
        raise InvalidRequest(other)
    for name, version in asked_for.items():
        if found[name] != version:
            await store.set_bucketing(name, version)


def plan_prune(stored: Iterable[Flag], kept: Iterable[FlagId], author: Author) -> list[PlannedChange]:
    """Plan to delete the stored flags that are not in `kept`, in the flag sets that `kept` mentions, parents last."""
    ids = set(kept)
    sets = {flag_id.flag_set for flag_id in ids}
    surplus = [flag for flag in stored if flag.flag_set in sets and flag.id not in ids]
    return [PlannedChange(flag.id, _delete(flag.id, author)) for flag in reversed(parents_first(surplus))]


async def make_changes(planned: Sequence[PlannedChange], store: FlagStore, cache: FlagCache | None) -> Counter[str]:
    """Make each change in an open store, update the cache, and announce it. Return the number of each `effect`."""
    made, unannounced = Counter[str](), 0
    for flag_id, decide in progress(planned):
        decisions: list[Change | None] = []

        def decide_and_note(
            current: Flag | None, decide: Decide = decide, decisions: list[Change | None] = decisions
        ) -> Change | None:
            decisions[:] = [decide(current)]  # a store decides again after a conflict with another writer
            return decisions[0]

        entry = await store.write(flag_id, decide_and_note)
        made[effect(decisions[0] if decisions else None)] += 1
        if entry is not None and await publish_change(cache, entry) is WriteLevel.STORED:
            unannounced += cache is not None
    if unannounced:
        what = "1 change is" if unannounced == 1 else f"{unannounced:,} changes are"
        cause = "the shared cache cannot be used (try: flagsvc doctor)"
        print(f"warning: {what} stored, but not announced: {cause}; replicas see them later", file=sys.stderr)
    return made


def _delete(flag_id: FlagId, author: Author) -> Decide:
    def decide(current: Flag | None) -> Change | None:
        return delete(flag_id.key, None, author)(current) if current is not None else None

    return decide


def progress(planned: Sequence[PlannedChange]) -> Iterator[PlannedChange]:
    """Yield the changes, and show on a terminal how many are done."""
    if not sys.stderr.isatty():
        yield from planned
        return
    from rich.console import Console  # noqa: PLC0415  only used on a terminal
    from rich.progress import track  # noqa: PLC0415

    yield from track(planned, "importing", console=Console(stderr=True))
