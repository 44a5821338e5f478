"""Watch streams. Each has its own bounded queue, so a client that does not read delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Entry
from flagsvc.serving.reader import Reader
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

HEARTBEAT_S = 10.0
"""Seconds without a message after which a heartbeat is sent."""
QUEUE_LENGTH = 1_024
"""Changes that wait for one client; with more, it gets a new snapshot instead."""


class Watches:
    """All watch streams of one replica."""

    def __init__(self, near: NearCache, reader: Reader) -> None:
        self._near, self._reader = near, reader
        self._closing = asyncio.Event()
        self.active = 0

    def close(self) -> None:
        """End every stream with OK once its queue is sent."""
        self._closing.set()

    async def stream(self, flag_set: str, resume: int) -> AsyncIterator[pb.WatchFlagsResponse]:
        """Yield a snapshot, or the changes after the revision `resume`, then each change in the order applied here."""
        queue: asyncio.Queue[tuple[Entry, int]] = asyncio.Queue(QUEUE_LENGTH)
        overflowed = False

        def listener(entry: Entry, watermark: int, _: ChangeKind) -> None:
            nonlocal overflowed
            if queue.full():
                overflowed = True
            else:
                queue.put_nowait((entry, watermark))

        self._near.changelogs.listen(flag_set, listener)
        self.active += 1
        try:
            for message in await self._beginning(flag_set, resume):
                yield message
            while True:
                if overflowed:
                    # The client reads too slowly: a snapshot replaces the changes that did not fit into its queue.
                    while not queue.empty():
                        queue.get_nowait()
                    overflowed = False
                    yield await self._snapshot(flag_set)
                item = await self._next(queue)
                if item is None:
                    return
                yield item if isinstance(item, pb.WatchFlagsResponse) else change_to_message(*item)
        finally:
            self.active -= 1
            self._near.changelogs.unlisten(flag_set, listener)

    async def _next(self, queue: asyncio.Queue[tuple[Entry, int]]) -> tuple[Entry, int] | pb.WatchFlagsResponse | None:
        """Return the next change, a heartbeat after HEARTBEAT_S without one, or None at the end."""
        if not queue.empty():
            return queue.get_nowait()
        getting = asyncio.ensure_future(queue.get())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({getting, closing}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            return None if closing.done() else pb.WatchFlagsResponse(heartbeat=pb.Heartbeat())
        finally:
            getting.cancel()
            closing.cancel()

    async def _beginning(self, flag_set: str, resume: int) -> list[pb.WatchFlagsResponse]:
        if resume > 0 and self._near.complete:
            missed = self._near.changelogs.since(flag_set, resume)
            if missed is not None:
                watermark = self._near.changelogs.watermark(flag_set)
                changes = [change_to_message(entry, min(entry.revision, watermark)) for entry in missed]
                return changes or [pb.WatchFlagsResponse(heartbeat=pb.Heartbeat(), resume_revision=watermark)]
        return [await self._snapshot(flag_set)]

    async def _snapshot(self, flag_set: str) -> pb.WatchFlagsResponse:
        flags = await self._reader.flags(flag_set)
        snapshot = pb.FlagSnapshot(flags=map(flag_to_message, flags))
        return pb.WatchFlagsResponse(snapshot=snapshot, resume_revision=self._near.changelogs.watermark(flag_set))


def change_to_message(entry: Entry, watermark: int) -> pb.WatchFlagsResponse:
    """Pack one change."""
    flag = None if entry.flag is None else flag_to_message(entry.flag)
    change = pb.FlagChange(flag_key=entry.id.key, revision=entry.revision, flag=flag)
    return pb.WatchFlagsResponse(change=change, resume_revision=watermark)
