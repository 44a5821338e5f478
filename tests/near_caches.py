"""Near caches and their entries; loads in one go, which a replica does in turns."""

from __future__ import annotations

from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Entry, StoreContents, UnversionedChange
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache


def entry(revision: int, key: str = "a", flag_set: str = "default") -> Entry:
    return Entry.of(Flag(key=key, flag_set=flag_set, name=f"at {revision}", revision=revision))


def gone(revision: int, key: str = "a") -> Entry:
    return Entry(FlagId("default", key), revision, None)


def contents(*entries: Entry, **revisions: int) -> StoreContents:
    return StoreContents([e.flag for e in entries if e.flag], revisions or {"default": 9})


def near(limit: int = 100) -> NearCache:
    return NearCache(limit, 5.0)


def held(cache: NearCache, key: str = "a") -> Entry | None:
    found = cache.get(FlagId("default", key))
    return found.entry if found else None


def recent(cache: NearCache, flag_set: str, now: float) -> dict[str, ChangeKind]:
    """Return the keys that changed recently, which is the same as whether there are any."""
    found, _ = cache.changelogs.changes_after(flag_set, 0, 1_000, now)
    assert cache.changelogs.has_recent_changes(flag_set, now) == bool(found)
    return found


def merge(near: NearCache, contents: StoreContents, asked_at: float, now: float) -> list[UnversionedChange]:
    """Merge a load that began and ended then. Return what changed without a new revision."""
    unversioned: list[UnversionedChange] = []
    for _ in near.merging(contents, asked_at, now, unversioned):
        pass
    return unversioned


def restore(near: NearCache, contents: StoreContents, age_s: float, now: float) -> None:
    """Restore a snapshot's contents."""
    for _ in near.restoring(contents, age_s, now):
        pass


def resync(near: NearCache, contents: StoreContents, asked_at: float, now: float) -> None:
    """Hold what the store has and nothing else."""
    with near.starting_over(asked_at):
        for _ in near.resyncing(contents, asked_at, now):
            pass
