"""Followers and heartbeats of a replica that is alone, for tests of single parts."""

from __future__ import annotations

from flagsvc.ports import FlagStore, ReplicaStatus
from flagsvc.replication.cache_lease import CacheLease
from flagsvc.replication.follower import Follower
from flagsvc.replication.heartbeats import Heartbeats
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache

STALENESS_S = 5.0


def heartbeats_of(near: NearCache, store: FlagStore) -> Heartbeats:
    """Return heartbeats without a cache that would carry them."""

    def status() -> ReplicaStatus:
        raise AssertionError

    progress, timing = StreamProgress.of_store(store), Timing.of_bound(STALENESS_S)
    return Heartbeats("this", near, None, progress=progress, timing=timing, status=status)


def follower_of(near: NearCache, store: FlagStore) -> Follower:
    """Return a follower without a shared cache."""
    timing = Timing.of_bound(STALENESS_S)
    return Follower(
        near,
        store,
        None,
        heartbeats=heartbeats_of(near, store),
        lease=CacheLease(near, None, timing),
        progress=StreamProgress.of_store(store),
        timing=timing,
    )
