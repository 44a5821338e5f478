"""OFREP's event streams, which ask clients to refetch. A stream stores whether an event is due, never messages."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable

from starlette.types import Receive, Send

from flagsvc.api.common.waiting import is_set_within
from flagsvc.api.ofrep.requests import EventId
from flagsvc.api.ofrep.responses import encode
from flagsvc.ports import Entry
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

KEEP_ALIVE_S = 20.0
"""Seconds without an event after which a comment is sent to keep the connection open."""
PAUSE_S = 0.005
"""Minimum seconds between a change and its event; changes in between share one event."""
JITTER_PER_STREAM_S = 0.0005
"""Maximum random delay added for each open stream, because clients refetch as soon as they get the event."""
RETRY_MS = (500, 2_500)
"""Range of reconnection delays in milliseconds; each client gets a random one, so that they spread."""
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def config_etag(near: NearCache, flag_set: str) -> str:
    """Return the ETag of a set's configuration, which events carry and clients send back."""
    return f'"{near.changelogs.watermark(flag_set)}"'


class SseStreams:
    """All of OFREP's event streams on one replica. `age_s`: seconds after which a stream ends."""

    def __init__(self, near: NearCache, age_s: float) -> None:
        self._near, self._age_s = near, age_s
        self._id = uuid.uuid4().hex[:8]
        self._streams: dict[asyncio.Event, str] = {}
        """Each open stream's wake-up, set while an event is due or to end the stream, and its flag set."""
        self._closing = False
        near.when_complete(self._wake_all)
        near.when_missed(self._wake)

    @property
    def active(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def close(self) -> None:
        """End every stream, so that clients reconnect to another replica."""
        self._closing = True
        self._wake_all()

    async def serve(
        self,
        flag_set: str,
        last_event_id: str,
        receive: Receive,
        send: Send,
        *,
        only_public: bool = False,
        renewed: Callable[[], str] | None = None,
    ) -> None:
        """Answer a request with a stream of a set's changes, first an event if the client may have missed some.

        `only_public`: of changes that callers with the role public may notice.
        `renewed`: returns the ticket with which the client can open the stream again; sent as a part of each id.
        """

        def event_id() -> EventId:
            return EventId(self._position(flag_set, only_public=only_public), renewed() if renewed is not None else "")

        wake, ends_at = asyncio.Event(), time.monotonic() + self._age_s

        def note(_entry: Entry, _watermark: int, _kind: ChangeKind) -> None:
            wake.set()

        self._streams[wake] = flag_set
        self._near.changelogs.listen(flag_set, note, only_public=only_public, of_values=True)
        gone = asyncio.create_task(_disconnected(receive, wake))
        try:
            if self._may_have_missed(flag_set, last_event_id, only_public=only_public):
                wake.set()
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._send(send, f"retry: {random.randint(*RETRY_MS)}\nid: {event_id()}\n\n")  # noqa: S311
            while not (self._closing or gone.done()) and (left := ends_at - time.monotonic()) > 0:
                if wake.is_set():
                    jitter = random.uniform(0, JITTER_PER_STREAM_S * self.active)  # noqa: S311  not a secret
                    await asyncio.sleep(PAUSE_S + jitter)
                    wake.clear()  # the event covers the changes so far
                    await self._send(send, self._event(flag_set, event_id()))
                elif not await is_set_within(wake, min(KEEP_ALIVE_S, left)) and left > KEEP_ALIVE_S:
                    await self._send(send, ": alive\n\n" if renewed is None else f": alive\nid: {event_id()}\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._near.changelogs.unlisten(flag_set, note)
            del self._streams[wake]

    def _may_have_missed(self, flag_set: str, last_event_id: str, *, only_public: bool) -> bool:
        """Whether the set may have changed since the client last fetched it."""
        if last_event_id:
            return last_event_id != self._position(flag_set, only_public=only_public)
        return self._near.changelogs.has_recent_changes(flag_set, time.monotonic(), only_public=only_public)

    def _position(self, flag_set: str, *, only_public: bool) -> str:
        """Return the id of an event that covers every change so far; no other replica makes the same ids.

        One for the public counts nothing else than they may notice.
        """
        near = self._near
        all_changes = near.replacements + near.changelogs.value_changes
        changes = f"p{near.changelogs.of(flag_set).public_changes}" if only_public else all_changes
        return f"{self._id}.{changes}.{near.partial.gaps}"

    def _event(self, flag_set: str, event_id: EventId) -> str:
        data = encode({"type": "refetchEvaluation", "etag": config_etag(self._near, flag_set)}).decode()
        return f"id: {event_id}\nevent: message\ndata: {data}\n\n"

    def _wake(self, missed: str) -> None:
        for wake, flag_set in self._streams.items():
            if flag_set == missed:
                wake.set()

    def _wake_all(self) -> None:
        for wake in self._streams:
            wake.set()

    @staticmethod
    async def _send(send: Send, text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _disconnected(receive: Receive, wake: asyncio.Event) -> None:
    """Wait until the client disconnects, then wake its stream."""
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()
