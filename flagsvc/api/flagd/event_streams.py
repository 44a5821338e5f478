"""flagd's event streams, which announce the changed keys of a set. A stream stores a few keys, never messages."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.peers import host_of
from flagsvc.api.common.waiting import is_set_within
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core.access.scopes import Scope
from flagsvc.core.errors import ChangesMissed, FlagsvcError, SetNotCovered, Stopping, StreamEnded
from flagsvc.ports import Entry
from flagsvc.view.changelog import ChangeKind, Changelogs
from flagsvc.view.near_cache import NearCache

KEEP_ALIVE_S = 20.0
"""Seconds without a message after which a keep-alive is sent."""
PAUSE_S = 0.005
"""Minimum seconds between two messages of a stream; changes in between share one message."""
MAX_KEYS = 1_000
"""Most keys in one message. A stream that has more to announce reads them from the changelog, piece by piece."""
MAX_PEERS = 10_000
"""Maximum number of connections whose selectors are remembered; the oldest are dropped first."""


class EventStreams:
    """All of flagd's event streams on one replica. `age_s`: seconds after which a stream ends.

    `connection_age_s`: seconds after which a connection gets no new calls, so that evaluations take another one.
    A stream ends with an error, never with OK, because flagd's Node provider reconnects only after an error.
    """

    def __init__(self, near: NearCache, age_s: float, connection_age_s: float) -> None:
        self._near, self._age_s, self._connection_age_s = near, age_s, connection_age_s
        self._by_peer: dict[str, set[_ChangedKeys]] = {}
        self._selected: OrderedDict[str, set[str]] = OrderedDict()
        self._closing = False
        self.knows_connections = True
        """Whether peers are told apart; else every stream covers what any caller has selected."""
        near.when_complete(self._add_all_missed)
        near.when_missed(self._end_uninformed)

    @property
    def active(self) -> int:
        """Number of open streams."""
        return sum(map(len, self._by_peer.values()))

    def close(self) -> None:
        """End every stream, so that clients reconnect to another replica."""
        self._closing = True
        for streams in self._by_peer.values():
            for stream in streams:
                stream.wake.set()

    def may_cache(self, peer: str, flag_set: str) -> None:
        """Make a connection's event streams cover a set, because its client may cache an evaluation of that set.

        flagd's Node provider sends its selector with evaluations, but not with its event stream.
        """
        peer = self._known(peer)
        streams = self._by_peer.get(peer, ())
        if any(flag_set in stream.sets for stream in streams):
            return  # another stream covers the set: the providers of one process share a connection
        if not streams and flag_set not in self._selected.get(peer, ()):
            self._end_left_behind(host_of(peer), flag_set)
        self._selected.setdefault(peer, set()).add(flag_set)
        while len(self._selected) > MAX_PEERS:
            self._selected.popitem(last=False)
        for stream in streams:
            if not stream.selects:
                self._follow(stream, flag_set)

    def covers_for_all(self, flag_set: str) -> bool:
        """Whether every stream without a selector covers a set by now. It may run in any thread."""
        return not self.knows_connections and flag_set in self._selected.get("", ())

    def _known(self, peer: str) -> str:
        return peer if self.knows_connections else ""

    def _end_left_behind(self, host: str, flag_set: str) -> None:
        """End streams without the set that a client at this address may have left on a connection without calls.

        Its new stream takes the connection of its evaluations. Streams never follow what another connection selects:
        behind a proxy, that may be another client. A provider opens its stream soon after its connection.
        """
        began_before = time.monotonic() - self._connection_age_s / 2
        for peer, streams in self._by_peer.items():
            if host_of(peer) == host:
                for stream in streams:
                    if not stream.selects and flag_set not in stream.sets and stream.began_at < began_before:
                        stream.end(SetNotCovered)

    async def stream(
        self, flag_set: str, message_type: Callable[..., Any], *, peer: str, selects: bool
    ) -> AsyncIterator[Any]:
        """Yield provider_ready, the changes that the client may have missed before it connected, then every change.

        `peer`: the connection; `selects`: whether the client sent a selector. Ends by raising Stopping, StreamEnded,
        ChangesMissed or SetNotCovered.
        """
        peer = self._known(peer)
        changed, ends_at = _ChangedKeys(CALLER.get().scope, selects=selects), time.monotonic() + self._age_s
        self._by_peer.setdefault(peer, set()).add(changed)
        try:
            for followed in {flag_set} if selects else {flag_set, *self._selected.get(peer, ())}:
                self._follow(changed, followed)
            yield _message(message_type, "provider_ready", {})
            while not (self._closing or changed.ended_by) and (left := ends_at - time.monotonic()) > 0:
                if changed.is_pending:
                    if kinds := changed.take(self._near.changelogs):
                        yield _message(message_type, "configuration_change", _data(kinds))
                    await asyncio.sleep(PAUSE_S)
                elif not await is_set_within(changed.wake, min(KEEP_ALIVE_S, left)) and left > KEEP_ALIVE_S:
                    yield message_type(type="keep_alive")
            raise Stopping() if self._closing else (changed.ended_by or StreamEnded)()
        finally:
            self._by_peer[peer].discard(changed)
            if not self._by_peer[peer]:
                del self._by_peer[peer]
            for followed in changed.sets:
                self._near.changelogs.unlisten(followed, changed.note)

    def _follow(self, stream: _ChangedKeys, flag_set: str) -> None:
        """Add a set to a stream, with the changes that its client may have missed.

        Behind a proxy, another caller may have selected the set on this connection.
        """
        if flag_set in stream.sets or not stream.scope.covers(flag_set):
            return
        stream.sets.add(flag_set)
        self._near.changelogs.listen(flag_set, stream.note, of_values=True)
        self._add_missed(stream, flag_set)

    def _end_uninformed(self, flag_set: str) -> None:
        """End the streams of a set of which changes were missed: providers drop their values, and connect again."""
        for stream in (each for streams in self._by_peer.values() for each in streams):
            if flag_set in stream.sets:
                stream.end(ChangesMissed)

    def _add_all_missed(self) -> None:
        """Add what their clients may have missed to streams that opened before the cache was complete."""
        for stream in (each for streams in self._by_peer.values() for each in streams):
            for flag_set in stream.sets:
                self._add_missed(stream, flag_set)

    def _add_missed(self, stream: _ChangedKeys, flag_set: str) -> None:
        stream.behind[flag_set] = 0
        stream.wake.set()


class _ChangedKeys:
    """The keys that changed since a stream's last message, by kind of change.

    `scope`: the flag sets that its caller may use.
    `behind`: sets of which a stream has more to announce than it stores, with the number of the last change announced.
    What changes meanwhile is behind too, so nothing is stored for these sets. A stream that takes nothing for a minute
    is ended by its sender, before the changelog forgets what it still has to announce.
    """

    ended_by: Callable[[], FlagsvcError] | None = None
    """Why the stream ends before its time."""

    def __init__(self, scope: Scope, *, selects: bool) -> None:
        self.scope = scope
        self.selects, self.began_at = selects, time.monotonic()
        self.sets: set[str] = set()
        self.kinds: dict[str, ChangeKind] = {}
        self.behind: dict[str, int] = {}
        self.wake = asyncio.Event()

    def note(self, entry: Entry, _watermark: int, kind: ChangeKind) -> None:
        """Add a change. With an earlier change of the same key it becomes the difference of both."""
        key = entry.id.key
        self.wake.set()
        if entry.id.flag_set in self.behind:
            return
        before = self.kinds.get(key)
        if before is None and len(self.kinds) >= MAX_KEYS:
            self.kinds.clear()
            self.behind = dict.fromkeys(self.sets, 0)
            return
        if before is not None and kind is not ChangeKind.DELETE:
            kind = ChangeKind.WRITE if before is ChangeKind.WRITE else ChangeKind.UPDATE
        self.kinds[key] = kind

    def end(self, reason: Callable[[], FlagsvcError]) -> None:
        """End the stream now, for a reason that its client is sent."""
        self.ended_by = reason
        self.wake.set()

    @property
    def is_pending(self) -> bool:
        """Whether there is something to announce."""
        return bool(self.kinds or self.behind)

    def take(self, changelogs: Changelogs) -> dict[str, ChangeKind]:
        """Return the next changes, at most MAX_KEYS, and forget them. What is behind comes first."""
        taken = self._take_behind(changelogs)
        if not taken and not self.behind:
            taken, self.kinds = self.kinds, {}
        if not self.is_pending:
            self.wake.clear()
        return taken

    def _take_behind(self, changelogs: Changelogs) -> dict[str, ChangeKind]:
        for flag_set, number in list(self.behind.items()):
            found, left_after = changelogs.changes_after(flag_set, number, MAX_KEYS, time.monotonic())
            if left_after is None:
                del self.behind[flag_set]
            else:
                self.behind[flag_set] = left_after
            if found or left_after is not None:
                return found
        return {}


def _data(kinds: Mapping[str, ChangeKind]) -> dict[str, Any]:
    """Return changes as an event's data."""
    return {"flags": {key: {"type": kind.value} for key, kind in kinds.items()}}


def _message(message_type: Callable[..., Any], kind: str, data: Mapping[str, Any]) -> Any:
    message = message_type(type=kind)
    put_fields(message.data, data)
    return message
