"""How a local client follows its flag set: a watch that heals, in a task or in a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from flagsvc_client import snapshot
from flagsvc_client._engine.model import Flag
from flagsvc_client.details import Source
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.events import Events
from flagsvc_client.local import LocalFlags
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.watching import SILENCE_S, Backoff, Snapshot, watched

log = logging.getLogger("flagsvc_client")
TICK_S = 0.25
CLOSE_S = 2.0
SAVE_S = 2.0
"""Not more often is the snapshot file written."""
Streams = Callable[[int], Any]
"""Opens a watch stream that resumes after a revision."""
_TROUBLE = (grpc.RpcError, FlagServiceError, RuntimeError, ValueError)
"""What ends a stream on bad days; anything else is a defect, here or in the server's answer, and is told as one."""


class Following:
    """What is the same for tasks and threads: what messages do, and what time does."""

    def __init__(self, flag_set: str, local: LocalFlags, events: Events, file: Path | None) -> None:
        self.local, self.events = local, events
        self._flag_set, self._file = flag_set, file
        self._unsaved, self._saved_at = False, 0.0
        self.backoff = Backoff()
        if file is not None and (saved := snapshot.read(file, flag_set)) is not None:
            local.restore(saved.flags, saved.watermark, saved.age_s)

    @property
    def resume(self) -> int:
        """The revision to resume from; what a file had is not built upon."""
        return self.local.watermark if self.local.source is Source.LOCAL else 0

    def took(self, message: pb.WatchFlagsResponse) -> None:
        """Take one message of the stream."""
        local, event = self.local, watched(message)
        changed: frozenset[str] = frozenset()
        if isinstance(event, Snapshot):
            changed = local.replace(event.flags, event.revision)
        elif event is not None:
            changed = local.change(event.key, event.flag, event.revision, message.resume_revision)
        self._unsaved = self._unsaved or event is not None
        local.heard()
        self.backoff.worked()
        if local.complete:
            self.events.became("ready")
        self.events.changed(changed)

    def wrote(self, key: str, flag: Flag | None, revision: int) -> None:
        """Take what this process wrote itself: it reads its own writes, also before the server tells them."""
        self.events.changed(self.local.change(key, flag, revision))

    def broke(self, error: Exception | None) -> None:
        """Note that the stream ended; only where nothing is held does that matter at once."""
        if error is not None and not isinstance(error, _TROUBLE):
            log.error("a message of the watch could not be taken; it is opened anew", exc_info=error)
        if not self.local.complete:
            why = error.details() if isinstance(error, grpc.RpcError) and hasattr(error, "details") else error
            self.events.became("error", f"no flag is known and the server cannot be asked: {why}")

    def tick(self) -> bool:
        """Note that time passes; gives whether the stream should be cut for its silence."""
        local = self.local
        if local.complete and local.age_s > local.staleness_bound_s:
            self.events.became("stale", f"nothing was heard of the server for {local.age_s:.0f} s")
        return local.age_s > SILENCE_S

    def save_is_due(self) -> bool:
        """Whether there is something to save, and it is time to."""
        return self._file is not None and self._unsaved and time.monotonic() - self._saved_at >= SAVE_S

    def save(self) -> None:
        """Write the snapshot file, if there is to be one and something new."""
        if self._file is not None and self._unsaved:
            self._unsaved, self._saved_at = False, time.monotonic()
            local = self.local
            snapshot.write(self._file, self._flag_set, local.flags(), local.watermark, local.age_s)


class AioFollower:
    """Follows in two tasks of the running loop."""

    def __init__(self, following: Following, streams: Streams) -> None:
        self._following, self._streams = following, streams
        self._stream: Any = None
        self._opened_at = 0.0
        self._tasks = [asyncio.create_task(run(), name="flagsvc") for run in (self._follow, self._watch_the_clock)]

    async def close(self) -> None:
        """End the tasks and save what is held."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._following.save)

    async def _follow(self) -> None:
        following = self._following
        while True:
            error: Exception | None = None
            try:
                self._stream = self._streams(following.resume)
                self._opened_at = time.monotonic()
                async for message in self._stream:
                    following.took(message)
            except Exception as caught:  # noqa: BLE001  whatever it is: who followed no more would hold this for ever
                error = caught
            except asyncio.CancelledError:
                if _is_cancelled():  # else the stream was, for its silence
                    raise
            finally:
                if self._stream is not None:
                    self._stream.cancel()
                    self._stream = None
            following.broke(error)
            await asyncio.sleep(following.backoff.pause_s())

    async def _watch_the_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            stream = self._stream
            if self._following.tick() and stream is not None and time.monotonic() - self._opened_at > SILENCE_S:
                stream.cancel()
            if self._following.save_is_due():
                await asyncio.to_thread(self._following.save)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class SyncFollower:
    """Follows in two daemon threads."""

    def __init__(self, following: Following, streams: Streams) -> None:
        self._following, self._streams = following, streams
        self._closing = threading.Event()
        self._stream: Any = None
        self._opened_at = 0.0
        self._threads = [
            threading.Thread(target=run, name="flagsvc", daemon=True) for run in (self._follow, self._watch_the_clock)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads and save what is held."""
        self._closing.set()
        if (stream := self._stream) is not None:
            stream.cancel()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSE_S)
        self._following.save()

    def _follow(self) -> None:
        following = self._following
        while not self._closing.is_set():
            error: Exception | None = None
            try:
                for message in self._messages():
                    following.took(message)
            except Exception as caught:  # noqa: BLE001  whatever it is: who followed no more would hold this for ever
                error = caught
            if not self._closing.is_set():
                following.broke(error)
                self._closing.wait(following.backoff.pause_s())

    def _messages(self) -> Iterator[pb.WatchFlagsResponse]:
        stream = self._streams(self._following.resume)
        self._stream, self._opened_at = stream, time.monotonic()
        try:
            if not self._closing.is_set():
                yield from stream
        finally:
            self._stream = None
            stream.cancel()

    def _watch_the_clock(self) -> None:
        while not self._closing.wait(TICK_S):
            stream = self._stream
            if self._following.tick() and stream is not None and time.monotonic() - self._opened_at > SILENCE_S:
                stream.cancel()
            if self._following.save_is_due():
                self._following.save()
