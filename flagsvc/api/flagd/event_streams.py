"""flagd's event streams: which keys of a set changed. A stream keeps changed keys, never messages."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core.errors import Stopping, StreamEnded
from flagsvc.ports import Entry
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

KEEP_ALIVE_S = 20.0
"""Silence after which a stream says that it is alive."""
PAUSE_S = 0.005
"""Least time between two messages of a stream: what changes meanwhile goes together."""
MAX_PEERS = 10_000
"""Connections whose selectors are remembered, the latest."""


class Events:
    """All event streams of one replica; `close` ends them. `age_s`: how long one lasts.

    A stream ends with an error, never with OK: flagd's Node provider connects again only after an error.
    """

    def __init__(self, near: NearCache, age_s: float) -> None:
        self._near, self._age_s = near, age_s
        self._streams: dict[str, set[_Changed]] = {}
        self._asked: OrderedDict[str, set[str]] = OrderedDict()
        self._closing = False
        near.when_complete(self._catch_up)

    @property
    def active(self) -> int:
        """Streams now."""
        return sum(map(len, self._streams.values()))

    def close(self) -> None:
        """Let every stream end, so that its client connects again elsewhere."""
        self._closing = True
        for streams in self._streams.values():
            for stream in streams:
                stream.wake.set()

    def may_cache(self, peer: str, flag_set: str) -> None:
        """Note that a client on this connection may cache an answer of a set: its event stream must tell of that set.

        flagd's Node provider sends its selector with evaluations and not with its event stream.
        """
        streams = self._streams.get(peer, ())
        if any(flag_set in stream.sets for stream in streams):
            return  # a stream of its own tells of it: providers of one process share a connection
        self._asked.setdefault(peer, set()).add(flag_set)
        while len(self._asked) > MAX_PEERS:
            self._asked.popitem(last=False)
        for stream in streams:
            if not stream.selects:
                self._follow(stream, flag_set)

    async def stream(
        self, flag_set: str, message_type: Callable[..., Any], *, peer: str, selects: bool
    ) -> AsyncIterator[Any]:
        """Give provider_ready, what a client may have missed before it connected, then every change.

        `peer`: the connection; `selects`: whether the client chose the set. Raises Stopping or StreamEnded at its end.
        """
        changed, until = _Changed(selects=selects), time.monotonic() + self._age_s
        self._streams.setdefault(peer, set()).add(changed)
        try:
            for followed in {flag_set} if selects else {flag_set, *self._asked.get(peer, ())}:
                self._follow(changed, followed)
            yield _message(message_type, "provider_ready", {})
            while not self._closing and (left := until - time.monotonic()) > 0:
                if changed.kinds:
                    yield _message(message_type, "configuration_change", changed.taken())
                    await asyncio.sleep(PAUSE_S)
                elif not await changed.within(min(KEEP_ALIVE_S, left)) and left > KEEP_ALIVE_S:
                    yield message_type(type="keep_alive")
            raise Stopping if self._closing else StreamEnded
        finally:
            self._streams[peer].discard(changed)
            if not self._streams[peer]:
                del self._streams[peer]
            for followed in changed.sets:
                self._near.changelogs.unlisten(followed, changed.note)

    def _follow(self, stream: _Changed, flag_set: str) -> None:
        """Tell a stream of a set from now on, and of what it may have missed."""
        if flag_set in stream.sets:
            return
        stream.sets.add(flag_set)
        self._near.changelogs.listen(flag_set, stream.note)
        self._tell_missed(stream, flag_set)

    def _catch_up(self) -> None:
        """Tell streams that were there before the first load what they may have missed."""
        for stream in (each for streams in self._streams.values() for each in streams):
            for flag_set in stream.sets:
                self._tell_missed(stream, flag_set)

    def _tell_missed(self, stream: _Changed, flag_set: str) -> None:
        if missed := self._near.changelogs.recent_changes(flag_set, time.monotonic()):
            stream.kinds |= missed
            stream.wake.set()


class _Changed:
    """The keys that changed since a stream last told of them."""

    def __init__(self, *, selects: bool) -> None:
        self.selects = selects
        self.sets: set[str] = set()
        self.kinds: dict[str, ChangeKind] = {}
        self.wake = asyncio.Event()

    def note(self, entry: Entry, _watermark: int, kind: ChangeKind) -> None:
        """Take a change; together with an earlier one of the key it is the difference that both make."""
        key = entry.id.key
        before = self.kinds.get(key)
        if before is not None and kind is not ChangeKind.DELETE:
            kind = ChangeKind.WRITE if before is ChangeKind.WRITE else ChangeKind.UPDATE
        self.kinds[key] = kind
        self.wake.set()

    def taken(self) -> dict[str, Any]:
        """Give the changes as an event's data, and forget them."""
        data = {"flags": {key: {"type": kind.value} for key, kind in self.kinds.items()}}
        self.kinds = {}
        self.wake.clear()
        return data

    async def within(self, seconds: float) -> bool:
        """Wait for a change or the end; False when there is none in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return False
        return True


def _message(message_type: Callable[..., Any], kind: str, data: Mapping[str, Any]) -> Any:
    message = message_type(type=kind)
    put_fields(message.data, data)
    return message
