"""Watch streams: each has a queue of its own, so that one which does not read holds up nobody."""

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
QUEUE_LENGTH = 1_024


class Watches:
    """All watch streams of one replica; `close` ends them cleanly."""

    def __init__(self, near: NearCache, reader: Reader) -> None:
        self._near, self._reader = near, reader
        self._closing = asyncio.Event()
        self.active = 0

    def close(self) -> None:
        """Let every stream end with OK after what it has queued."""
        self._closing.set()

    async def stream(self, flag_set: str, resume: int) -> AsyncIterator[pb.WatchFlagsResponse]:
        """Give a snapshot (or what came after `resume`), then every change in the order it was applied here."""
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
                    # The reader was too slow: the newest state replaces what it missed.
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
        """Give the next change, a heartbeat after silence, or None at the end."""
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
    change = pb.FlagChange(flag_key=entry.id.key, revision=entry.revision)
    if entry.flag is not None:
        change.flag.CopyFrom(flag_to_message(entry.flag))
    return pb.WatchFlagsResponse(change=change, resume_revision=watermark)
