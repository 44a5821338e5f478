"""Compares a full load of the store with what is held: what to replace, and what changed without a new revision.

Pure: `NearCache.merging` applies the difference, flag by flag. Changes may be applied between two flags, so each is
compared with what is held at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.turns import merged, sorted_pieces
from flagsvc.view.entries import CacheEntry, Source


@dataclass(frozen=True, slots=True)
class View:
    """What is held: `held` as it is now, all else as it was before the load was taken.

    `flags`: returns the entries of all flags that exist, as they are when it is called.
    `watermarks`: per flag set, the revision up to which all changes are applied; None while not every flag is held.
    `verified_at`: as of when the whole view is right. `restored`: it comes from a snapshot.
    """

    held: Mapping[FlagId, CacheEntry]
    flags: Callable[[], Iterable[CacheEntry]]
    watermarks: Mapping[str, int] | None
    verified_at: float
    restored: bool
    high_water_mark: Callable[[FlagId], int]


@dataclass(slots=True)
class Diff:
    """What a load changes at one flag. `changed`: the entry to hold, if there is a new one.

    `confirmed`: the entry found as it is held. `unversioned`: changes that need a revision, as far as that can be
    seen. `is_whole`: the view is the store's as of the load once `changed` is applied. `is_left_out`: the load has
    the flag, but the view may not hold it, because something newer was answered of it.
    """

    changed: list[Entry] = field(default_factory=list)
    confirmed: list[Entry] = field(default_factory=list)
    unversioned: list[UnversionedChange] = field(default_factory=list)
    is_whole: bool = True
    is_left_out: bool = False


_UNCHANGED = Diff()


def reconcile(view: View, contents: StoreContents, asked_at: float, found: set[FlagId]) -> Iterator[Diff]:
    """Yield what the contents, which the store was asked for at this moment, change at each flag in the view.

    Flags come in the order of their revisions, then deletions. `found` gets the ids of the contents' flags.
    """
    pieces = []
    for piece in sorted_pieces(contents.flags, _revision):
        pieces.append(piece)
        yield _UNCHANGED
    for flag in merged(pieces, _revision):
        found.add(flag.id)
        yield _compared(view, flag, contents, asked_at)
    for listed in view.flags():
        flag_id = listed.entry.id
        old = view.held.get(flag_id)
        is_missing = old is not None and old.entry.flag is not None and flag_id not in found
        yield _deleted(old, contents, asked_at) if old is not None and is_missing else _UNCHANGED


def _revision(flag: Flag) -> int:
    return flag.revision


def _ambiguous(old: CacheEntry | None, flag: Flag, contents: StoreContents, asked_at: float) -> list[UnversionedChange]:
    """Return the change of a flag that cannot be taken before it has a larger revision than the held entry.

    With a smaller one, another program inserted the flag after a deletion that may have been missed. That is so as
    well where the held entry arrived during the load with a revision that the load has for sure: it was read from the
    shared cache, for example, and is older than the load.
    With an equal one, another program changed it, and it is unknown which of the two contents is newer.
    """
    if old is None:
        return []
    is_older = old.received_at < asked_at or old.origin is Source.SNAPSHOT
    is_contained = old.entry.revision <= contents.revisions.get(flag.flag_set, 0)
    if (old.entry.revision > flag.revision and (is_older or is_contained)) or (
        old.entry.revision == flag.revision and old.may_be_newer_than(asked_at) and old.entry.flag != flag
    ):
        return [UnversionedChange(flag.id, old.entry.revision)]
    return []


def _compared(view: View, flag: Flag, contents: StoreContents, asked_at: float) -> Diff:
    old, entry = view.held.get(flag.id), Entry.of(flag)
    diff = Diff(unversioned=_ambiguous(old, flag, contents, asked_at))
    diff.is_whole = not diff.unversioned
    if old is None:
        applied = (view.watermarks or {}).get(flag.flag_set, 0)
        if view.watermarks is not None and asked_at <= view.verified_at and flag.revision <= applied:
            return diff  # it was deleted since
        if flag.revision < (answered := view.high_water_mark(flag.id)):
            diff.is_left_out = True
            if answered <= contents.revisions.get(flag.flag_set, 0):  # another program inserted it since
                diff.unversioned.append(UnversionedChange(flag.id, answered))
            return diff
    elif not old.is_replaced_by(entry, asked_at):
        diff.confirmed.append(entry)
        return diff
    diff.changed.append(entry)
    if _is_unversioned(view, old, flag):
        diff.unversioned.append(UnversionedChange(flag.id, flag.revision))
    return diff


def _is_unversioned(view: View, old: CacheEntry | None, flag: Flag) -> bool:
    """Whether another program made this change: its revision was already applied with another content."""
    if view.watermarks is None:
        return False
    same_revision = old.entry.revision == flag.revision if old is not None else not view.restored
    return same_revision and flag.revision <= view.watermarks.get(flag.flag_set, 0)


def _deleted(old: CacheEntry, contents: StoreContents, asked_at: float) -> Diff:
    """Remove what the store no longer has, and report it: another program may have deleted it without a revision."""
    flag_id, revision, diff = old.entry.id, old.entry.revision, Diff()
    absent_at = contents.absent.get(flag_id, contents.revisions.get(flag_id.flag_set, 0))
    if revision > absent_at and old.received_at >= asked_at:
        return diff  # it was made after the load
    diff.unversioned.append(UnversionedChange(flag_id, revision, gone=True))
    absent = Entry.absent(flag_id, max(absent_at, revision))
    if old.is_replaced_by(absent, asked_at):
        diff.changed.append(absent)
    else:
        diff.is_whole = False
    return diff
