"""Creates the store, cache and snapshot that URLs and settings name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flagsvc.adapters.files.sources import sources_of
from flagsvc.adapters.identity import identity_of
from flagsvc.core.flagd.sets import NAMED_SETS, FileSets, NamedSets
from flagsvc.replication.timing import MIN_MONGODB_BOUND_S, Timing
from flagsvc.settings import Settings
from flagsvc.urls import CACHE_SCHEMES, STORE_SCHEMES, SettingsError, checked_url, redacted, without_secrets

if TYPE_CHECKING:
    from flagsvc.ports import FlagCache, FlagStore, Snapshot


def store_for(url: str, settings: Settings | None = None) -> FlagStore:
    """Create the store that the URL names, without opening it. Raises SettingsError for an invalid URL."""
    settings = settings or Settings()
    checked_url("--store", url, STORE_SCHEMES)
    if url.startswith("sqlite:"):
        if "?" in url:
            raise SettingsError(
                "--store (FLAGSVC_STORE_URL): sqlite:///FILE takes no options; remove all from the ? on"
            )
        from flagsvc.adapters.sqlite import SqliteStore  # noqa: PLC0415  a driver is imported only if it is used

        return SqliteStore(url)
    if url.startswith("file:"):
        from flagsvc.adapters.files.store import FileStore  # noqa: PLC0415

        return FileStore(url)
    from flagsvc.adapters.mongo.store import MongoStore  # noqa: PLC0415

    if settings.staleness_bound_s < MIN_MONGODB_BOUND_S:
        raise SettingsError(
            f"FLAGSVC_STALENESS_BOUND_S is {settings.staleness_bound_s:g}; with MongoDB it has to be at least"
            f" {MIN_MONGODB_BOUND_S:g} s: its answers and a pause of the process do not fit into a shorter bound"
        )
    timing = Timing.of_bound(settings.staleness_bound_s)
    try:
        return MongoStore(
            url,
            pool_size=settings.store_connections,
            timeout_s=settings.store_timeout_s,
            stream_wait_s=timing.stream_wait_s,
            prove_after_s=timing.prove_after_s,
            given_identity=settings.store_name,
        )
    except ValueError as error:
        raise SettingsError(f"--store (FLAGSVC_STORE_URL): {without_secrets(str(error), url)}") from None


def flag_sets_for(url: str) -> NamedSets:
    """Return how flagd's selectors select flag sets of the store that the URL names."""
    return FileSets(sources_of(url)) if url.startswith("file:") else NAMED_SETS


def cache_for(url: str, settings: Settings | None = None) -> FlagCache | None:
    """Create the cache that the URL names; None for `none`. Raises SettingsError for an invalid URL."""
    settings = settings or Settings()
    if checked_url("--cache", url, CACHE_SCHEMES) == "none":
        return None
    if settings.store_url.startswith("file:"):
        raise SettingsError("--cache has no effect with --store file: (every replica reads the files); omit --cache")
    from flagsvc.adapters.redis.cache import RedisCache  # noqa: PLC0415

    try:
        return RedisCache(
            url,
            ttl_s=settings.cache_ttl_s,
            ttl_jitter=settings.cache_ttl_jitter,
            negative_ttl_s=settings.negative_ttl_s,
            timeout_s=settings.cache_timeout_s,
            prefix=settings.cache_prefix,
            store_name=identity_of("", settings.store_url).name,
        )
    except ValueError as error:
        raise SettingsError(f"--cache (FLAGSVC_CACHE_URL): {without_secrets(str(error), url)}") from None


def snapshot_for(settings: Settings) -> Snapshot | None:
    """Create the snapshot that the settings name; None if they name none."""
    if not settings.snapshot_file:
        return None
    from flagsvc.adapters.snapshot.file import SnapshotFile  # noqa: PLC0415

    path, store = Path(settings.snapshot_file), redacted(settings.store_url)
    return SnapshotFile(path, store, settings.snapshot_max_age_s, lambda: datetime.now(UTC))
