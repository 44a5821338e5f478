"""Where import, export and validate work: on a store, or through a server; never on a store that nobody named."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeAlias

import grpc

from flagsvc.adapters.build import cache_for, store_for
from flagsvc.api.flag_service.flag_messages import flag_to_message, received
from flagsvc.cli import options, store_changes
from flagsvc.cli.calls import Stub, error_reason, with_stub
from flagsvc.cli.flag_commands import all_flags
from flagsvc.cli.linked_import import differing, in_store, on_server, put_in_store, put_on_server
from flagsvc.cli.store_changes import PlannedChange
from flagsvc.cli.usage import UsageError
from flagsvc.core.changes import Author
from flagsvc.core.json_values import same
from flagsvc.core.model import STORED_NAMES, WRITABLE, Action, Change, Flag, FlagId
from flagsvc.core.segments import Segment
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1.segment_service_pb2_grpc import SegmentServiceStub
from flagsvc.ports import FlagCache, FlagStore
from flagsvc.replication.publish import publish_change
from flagsvc.settings import Settings

_CONFLICTS = frozenset({"FLAG_VERSION_CONFLICT", "FLAG_ALREADY_EXISTS", "FLAG_NOT_FOUND"})
_ATTEMPTS = 3
SegmentChanges: TypeAlias = "Sequence[tuple[Segment, Action]]"
Prune = Callable[[list[Flag]], list[PlannedChange]]
"""From the stored flags to the deletions of those that a file lacks."""


class Target(Protocol):
    """Holds flags. Raises FlagsvcError or grpc.RpcError."""

    def flags(self, _flag_sets: Sequence[str], /) -> list[Flag]:
        """Return the flags of sets, and maybe others."""

    def was_used(self, _flag_sets: Sequence[str], /) -> bool:
        """Whether there is a flag, or was one."""

    def part_written(self, _change: Change | None, /) -> Change | None:
        """Return what of a change it writes; None: nothing."""

    def segment_changes(self, _segments: Sequence[Segment], /) -> SegmentChanges:
        """Return which of these segments would be created or changed."""

    def write_segments(self, _changes: SegmentChanges, _author: Author, /) -> None:
        """Create or change segments, before the flags that use them."""

    def write(
        self, planned: Sequence[PlannedChange], bucketings: Mapping[str, int], prune: Prune | None
    ) -> Counter[str]:
        """Make the changes, and then those that `prune` plans; return the number of each `effect`."""


def on_target(args: argparse.Namespace, work: Callable[[Target], int]) -> int:
    """Run a command on the store or the server that the arguments, or else the environment, name."""
    if args.store and (args.address or args.profile):
        raise UsageError("--store and --address name two places; leave one out")
    names_store = any(os.environ.get(name, "").strip() for name in ("FLAGSVC_STORE_URL", "FLAGSVC_STORE_URL_FILE"))
    if args.store or (names_store and not (args.address or args.profile)):
        settings = Settings.from_env(os.environ)
        return work(OnStore(args.store or settings.store_url, getattr(args, "cache", None) or settings.cache_url))
    if getattr(args, "cache", None):
        raise UsageError("--cache goes with --store; a server has its own")
    return with_stub(args, lambda stubs: work(OnServer(*stubs, args)), lambda c: (Stub(c), SegmentServiceStub(c)))


class OnStore:
    """A store, and the shared cache on which changes are announced."""

    def __init__(self, url: str, cache_url: str) -> None:
        self._url, self._cache_url = url, cache_url

    def flags(self, _flag_sets: Sequence[str]) -> list[Flag]:
        """Return all flags; none of a file that does not exist, which is not created."""
        return [] if self._is_missing() else asyncio.run(store_changes.load_flags(store_for(self._url)))

    def was_used(self, _flag_sets: Sequence[str]) -> bool:
        """Whether the store has a flag, or had one."""
        return not self._is_missing() and asyncio.run(store_changes.was_used(store_for(self._url)))

    def part_written(self, change: Change | None) -> Change | None:
        """Return the whole change, with the times of the file."""
        return change

    def segment_changes(self, segments: Sequence[Segment]) -> SegmentChanges:
        """Compare with the segments of the store; none of a file that does not exist."""
        if not segments or self._is_missing():
            return differing(segments, [])
        return asyncio.run(self._segment_changes(segments))

    async def _segment_changes(self, segments: Sequence[Segment]) -> SegmentChanges:
        async with self._opened() as (store, _):
            return differing(segments, await in_store([each.flag_set for each in segments], store))

    def write_segments(self, changes: SegmentChanges, author: Author) -> None:
        """Create or change segments, and announce the flags that change with them."""
        if changes:
            asyncio.run(self._write_segments(changes, author))

    async def _write_segments(self, changes: SegmentChanges, author: Author) -> None:
        async with self._opened() as (store, cache):
            for entry in await put_in_store(changes, store, author):
                await publish_change(cache, entry)

    def write(
        self, planned: Sequence[PlannedChange], bucketings: Mapping[str, int], prune: Prune | None
    ) -> Counter[str]:
        """Make the changes in one connection."""
        return asyncio.run(self._write(planned, bucketings, prune))

    async def _write(
        self, planned: Sequence[PlannedChange], bucketings: Mapping[str, int], prune: Prune | None
    ) -> Counter[str]:
        async with self._opened() as (store, cache):
            await store_changes.adopt_bucketings(bucketings, store)
            deletions = prune(list((await store.load()).flags)) if prune else []
            return await store_changes.make_changes([*planned, *deletions], store, cache)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[FlagStore, FlagCache | None]]:
        store, cache = store_for(self._url), cache_for(self._cache_url)
        await store.open()
        try:
            if cache is not None:
                await cache.open()
            yield store, cache
        finally:
            if cache is not None:
                await cache.close()
            await store.close()

    def _is_missing(self) -> bool:
        """Whether it is a SQLite store without a file. Opening it creates the file, and reading must not."""
        return self._url.startswith("sqlite:") and not Path(self._url.removeprefix("sqlite:///")).exists()


class OnServer:
    """A running server. Each flag is written only in the revision that was read."""

    def __init__(self, stub: Stub, segments: SegmentServiceStub, args: argparse.Namespace) -> None:
        self._stub, self._segments, self._args = stub, segments, args

    def segment_changes(self, segments: Sequence[Segment]) -> SegmentChanges:
        """Compare with the segments of the server, which is asked where the file has any."""
        return differing(segments, on_server((each.flag_set for each in segments), self._segments, self._args.timeout))

    def write_segments(self, changes: SegmentChanges, author: Author) -> None:
        """Create or change segments."""
        actor = options.actor_of(self._args) or "import"
        put_on_server(changes, self._segments, actor, author.reason, self._args.timeout)

    def flags(self, flag_sets: Sequence[str]) -> list[Flag]:
        """Return the flags of the sets."""
        return [flag for name in dict.fromkeys(flag_sets) for flag in all_flags(self._stub, name, self._args.timeout)]

    def was_used(self, flag_sets: Sequence[str]) -> bool:
        """Whether a set has a flag. Flags that are gone, a server does not show."""
        return bool(self.flags(flag_sets))

    def part_written(self, change: Change | None) -> Change | None:
        """Return an update without the times that only a server writes; None if there is nothing else in it."""
        if change is None or change.before is None or change.after is None:
            return change
        names = [STORED_NAMES[name] for name in _written_fields(change.before, change.after)]
        old, new = ({name: (side or {}).get(name) for name in names} for side in (change.previous, change.new))
        return replace(change, previous=old, new=new) if names else None

    def write(
        self, planned: Sequence[PlannedChange], bucketings: Mapping[str, int], prune: Prune | None
    ) -> Counter[str]:
        """Make the changes, one call for each flag that differs."""
        stored = self.flags([each.flag_id.flag_set for each in planned])
        asyncio.run(store_changes.adopt_bucketings(bucketings, _Bucketings(self._stub, self._args, stored)))
        current = {flag.id: flag for flag in stored}
        made = Counter[str]()
        for flag_id, decide in store_changes.progress([*planned, *(prune(stored) if prune else [])]):
            made[self._change(flag_id, decide, current.get(flag_id))] += 1
        return made

    def _change(self, flag_id: FlagId, decide: Callable[[Flag | None], Change | None], current: Flag | None) -> str:
        """Make one change, decided again where another writer was faster; return its `effect`."""
        for attempt in range(1, _ATTEMPTS + 1):
            change = self.part_written(decide(current))
            try:
                return self._send(flag_id, change)
            except grpc.RpcError as error:
                if attempt == _ATTEMPTS or error_reason(error) not in _CONFLICTS:
                    raise
            current = next((flag for flag in self.flags([flag_id.flag_set]) if flag.id == flag_id), None)
        raise AssertionError  # the last attempt raises

    def _send(self, flag_id: FlagId, change: Change | None) -> str:
        if change is None:
            return store_changes.effect(None)
        call = {"actor": options.actor_of(self._args) or "import", "reason": self._args.reason}
        if change.after is None:
            etag = change.before.etag if change.before else ""
            request = pb.DeleteFlagRequest(flag_key=flag_id.key, flag_set=flag_id.flag_set, etag=etag, **call)
            self._stub.DeleteFlag(request, timeout=self._args.timeout)
        elif change.before is None:
            made = pb.CreateFlagRequest(flag=flag_to_message(change.after), **call)
            self._stub.CreateFlag(made, timeout=self._args.timeout)
        else:
            update = pb.UpdateFlagRequest(flag=flag_to_message(change.after), **call)
            update.flag.etag = change.before.etag
            update.update_mask.paths.extend(_written_fields(change.before, change.after))
            received(self._stub.UpdateFlag(update, timeout=self._args.timeout).flag)
        return store_changes.effect(change)


def _written_fields(before: Flag, after: Flag) -> list[str]:
    return [name for name in WRITABLE if not same(getattr(before, name), getattr(after, name))]


class _Bucketings:
    """The bucketings of a server's flag sets, as `adopt_bucketings` needs them."""

    def __init__(self, stub: Stub, args: argparse.Namespace, stored: Sequence[Flag]) -> None:
        self._stub, self._args, self._stored = stub, args, stored

    async def revisions(self) -> Mapping[str, int]:
        """Return the sets that have flags."""
        return {flag.flag_set: flag.revision for flag in self._stored}

    async def bucketing(self, flag_set: str) -> int:
        """Return the bucketing of a set."""
        found = self._stub.GetBucketing(pb.GetBucketingRequest(flag_set=flag_set), timeout=self._args.timeout)
        return int(found.bucketing)

    async def set_bucketing(self, flag_set: str, version: int) -> None:
        """Change the bucketing of a set without flags."""
        request = pb.SetBucketingRequest(flag_set=flag_set, bucketing=version, force=True)
        request.actor, request.reason = options.actor_of(self._args) or "import", self._args.reason
        self._stub.SetBucketing(request, timeout=self._args.timeout)
