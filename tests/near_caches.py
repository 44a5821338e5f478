"""Loads of a near cache in one go, which a replica does in turns."""

from __future__ import annotations

from flagsvc.ports import StoreContents, UnversionedChange
from flagsvc.view.near_cache import NearCache


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
