"""Event streams that say "ask again": a stream keeps whether it has to say so, never messages."""

from __future__ import annotations

import asyncio
import random
import time
import uuid

from starlette.types import Receive, Send

from flagsvc.api.ofrep.responses import encoded
from flagsvc.ports import Entry
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

KEEP_ALIVE_S = 20.0
"""Silence after which a stream says that it is alive."""
PAUSE_S = 0.005
"""Least time before a change is told: what changes meanwhile goes together."""
SPREAD_PER_STREAM_S = 0.0005
"""More of it for each stream that there is: those who are told ask at once, and must not all ask in one moment."""
RETRY_MS = (500, 2_500)
"""When clients connect again, so that not all do at once."""
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def config_etag(near: NearCache, flag_set: str) -> str:
    """Name the state of a set as event streams tell it and callers send it back."""
    return f'"{near.changelogs.watermark(flag_set)}"'


class Streams:
    """All event streams of one replica; `close` ends them. `age_s`: how long one lasts."""

    def __init__(self, near: NearCache, age_s: float) -> None:
        self._near, self._age_s = near, age_s
        self._name = uuid.uuid4().hex[:8]
        self._streams: set[_Stream] = set()
        self._closing = False
        near.when_complete(self._catch_up)

    @property
    def active(self) -> int:
        """Streams now."""
        return len(self._streams)

    def close(self) -> None:
        """Let every stream end, so that its client connects again elsewhere."""
        self._closing = True
        for stream in self._streams:
            stream.wake.set()

    async def serve(self, flag_set: str, last_event_id: str, receive: Receive, send: Send) -> None:
        """Answer a request with a stream of a set's changes, the first for what may have been missed before it."""
        stream, until = _Stream(), time.monotonic() + self._age_s
        self._streams.add(stream)
        self._near.changelogs.listen(flag_set, stream.note)
        gone = asyncio.create_task(stream.end_with_caller(receive))
        try:
            if self._may_have_missed(flag_set, last_event_id):
                stream.tell()
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._send(send, f"retry: {random.randint(*RETRY_MS)}\nid: {self._position()}\n\n")  # noqa: S311
            while not (self._closing or stream.gone) and (left := until - time.monotonic()) > 0:
                if stream.due:
                    spread = random.uniform(0, SPREAD_PER_STREAM_S * self.active)  # noqa: S311  no secret
                    await asyncio.sleep(PAUSE_S + spread)
                    stream.taken()
                    await self._send(send, self._event(flag_set))
                elif not await stream.within(min(KEEP_ALIVE_S, left)) and left > KEEP_ALIVE_S:
                    await self._send(send, ": alive\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._near.changelogs.unlisten(flag_set, stream.note)
            self._streams.discard(stream)

    def _may_have_missed(self, flag_set: str, last_event_id: str) -> bool:
        """Whether the set may have changed since the caller last asked."""
        if last_event_id:
            return last_event_id != self._position()
        return bool(self._near.changelogs.recent_changes(flag_set, time.monotonic()))

    def _position(self) -> str:
        """Name what this replica has told up to now; no other replica's names are like it."""
        return f"{self._name}.{self._near.replacements}.{self._near.partial.gaps}"

    def _event(self, flag_set: str) -> str:
        data = encoded({"type": "refetchEvaluation", "etag": config_etag(self._near, flag_set)}).decode()
        return f"id: {self._position()}\nevent: message\ndata: {data}\n\n"

    def _catch_up(self) -> None:
        """Tell streams that were there while something was not held."""
        for stream in self._streams:
            stream.tell()

    @staticmethod
    async def _send(send: Send, text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class _Stream:
    """Whether a change has to be told, and whether the caller is still there."""

    def __init__(self) -> None:
        self.due = self.gone = False
        self.wake = asyncio.Event()

    def note(self, _entry: Entry, _watermark: int, _kind: ChangeKind) -> None:
        """Take a change."""
        self.tell()

    def tell(self) -> None:
        """Have it told."""
        self.due = True
        self.wake.set()

    def taken(self) -> None:
        """Forget the changes up to now: they are being told."""
        self.due = False
        self.wake.clear()

    async def end_with_caller(self, receive: Receive) -> None:
        """Wait until the caller goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.wake.set()

    async def within(self, seconds: float) -> bool:
        """Wait for a change or the end; False when there is none in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return False
        return True
