"""Watch streams. Each has its own bounded queue, so a client that does not read delays no other."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping

from flagsvc.api.common.shared import SharedBySet
from flagsvc.api.common.values import to_value
from flagsvc.api.common.waiting import is_set_within
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.api.flag_service.snapshots import SetSnapshot, needing
from flagsvc.core.evaluation import RULES
from flagsvc.core.json_values import MAX_DEPTH
from flagsvc.core.model import JsonValue
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import Entry
from flagsvc.serving.reader import Reader
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.near_cache import NearCache

HEARTBEAT_S = 10.0
"""Seconds without a message after which a heartbeat is sent."""
PROVEN_CONTEXT = "proven-context"
"""What clients must know of that evaluate for a caller whose credential proves fields of the context."""
QUEUE_LENGTH = 256
"""Changes that wait for one client; with more, it gets a new snapshot instead."""

Message = pb.WatchFlagsResponse | bytes


class Watches:
    """All watch streams of one replica. `age_s`: seconds after which a stream ends."""

    def __init__(self, near: NearCache, reader: Reader, age_s: float, settings: pb.EvaluationSettings) -> None:
        """`settings`: what clients that evaluate need to know. Each stream's first message has them."""
        self._near, self._age_s, self._settings = near, age_s, settings
        encoded = pb.WatchFlagsResponse(evaluation=settings).SerializeToString()
        self._snapshots = SharedBySet(
            lambda flag_set: SetSnapshot(flag_set, near, reader, encoded), lambda _, snapshot: snapshot.close()
        )
        self._streams: set[_Pending] = set()
        self._closing = False
        near.when_missed(self._send_again)

    @property
    def active(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def close(self) -> None:
        """End every stream with OK once its queue is sent."""
        self._closing = True
        for pending in self._streams:
            pending.wake.set()

    async def stream(
        self, flag_set: str, resume: int, proven: Mapping[str, JsonValue] | None = None, *, in_pages: bool = False
    ) -> AsyncIterator[Message]:
        """Yield a snapshot, or the changes after the revision `resume`, then each change in the order applied here.

        `proven`: context fields that the caller's credential proves.
        `in_pages`: the client takes a snapshot in several messages.
        """
        own = _proven(proven) if proven else None
        pending, ends_at = _Pending(flag_set), time.monotonic() + self._age_s
        self._near.changelogs.listen(flag_set, pending.note)
        self._streams.add(pending)
        try:
            missed = self._missed(flag_set, resume)
            if missed is None:
                pending.needs_snapshot = True
            else:
                for message in self._catch_up(flag_set, missed):
                    if own is not None and message.HasField("evaluation"):
                        message.MergeFrom(own)
                    yield message
                del message  # a stream lives long, and holds nothing that it has sent
            del missed
            while True:
                if pending.needs_snapshot:
                    rest = own.SerializeToString() if own is not None else b""
                    async for page in self._snapshot(flag_set, pending, own, in_pages):
                        # The first page has the settings. Messages that are encoded one after the other are one.
                        yield page + rest if rest and isinstance(page, bytes) else page
                        rest = b""
                    del page
                elif pending.changes:
                    yield self._change(*pending.changes.popleft(), own)
                elif self._closing or (left := ends_at - time.monotonic()) <= 0:
                    return
                elif not await pending.is_woken(min(HEARTBEAT_S, left)):
                    yield pb.WatchFlagsResponse(heartbeat=pb.Heartbeat())
        finally:
            self._streams.discard(pending)
            self._near.changelogs.unlisten(flag_set, pending.note)

    def _send_again(self, flag_set: str) -> None:
        """Send a snapshot on the streams of a set of which changes were missed."""
        for pending in self._streams:
            if pending.flag_set == flag_set:
                pending.needs_snapshot = True
                pending.wake.set()

    def _missed(self, flag_set: str, resume: int) -> list[tuple[Entry, int]] | None:
        """Return the changes since a client left, with the revisions to resume from; None if it needs a snapshot."""
        if resume <= 0 or not self._near.complete:
            return None
        missed = self._near.changelogs.since(flag_set, resume)
        if missed is None:
            return None
        watermark = self._near.changelogs.watermark(flag_set)
        return [(entry, min(entry.revision, watermark)) for entry in missed]

    def _catch_up(self, flag_set: str, missed: list[tuple[Entry, int]]) -> Iterator[pb.WatchFlagsResponse]:
        """Yield the missed changes, or one heartbeat if there are none; the first message has the settings."""
        if not missed:
            watermark = self._near.changelogs.watermark(flag_set)
            heartbeat = pb.Heartbeat()
            yield pb.WatchFlagsResponse(heartbeat=heartbeat, resume_revision=watermark, evaluation=self._settings)
        for number, (entry, watermark) in enumerate(missed):
            message = self._change(entry, watermark, None)
            if number == 0 and not message.HasField("evaluation"):
                message.evaluation.CopyFrom(self._settings)
            yield message

    def _change(self, entry: Entry, watermark: int, own: pb.WatchFlagsResponse | None) -> pb.WatchFlagsResponse:
        """Pack one change; with the settings if the flag needs something that not every client knows."""
        message = change_to_message(entry, watermark)
        if needs := message.change.flag.needs:
            message.evaluation.CopyFrom(self._settings)
            message.MergeFrom(needing(needs))
            if own is not None:
                message.MergeFrom(own)
        return message

    async def _snapshot(
        self, flag_set: str, pending: _Pending, own: pb.WatchFlagsResponse | None, in_pages: bool
    ) -> AsyncIterator[Message]:
        """Yield the shared snapshot and the changes that follow it; what waited for the client until now is in both."""
        with self._snapshots.of(flag_set) as shared:
            pages, later = await shared.newest(in_pages=in_pages)
            pending.restart()  # in the same step: later changes go to the queue, and no earlier ones
            for page in pages:
                yield page
            del pages
        for entry, watermark in later:
            yield self._change(entry, watermark, own)


class _Pending:
    """The changes that wait for one client."""

    def __init__(self, flag_set: str) -> None:
        self.flag_set = flag_set
        self.changes: deque[tuple[Entry, int]] = deque()
        self.needs_snapshot = False
        self.wake = asyncio.Event()

    def note(self, entry: Entry, watermark: int, _kind: ChangeKind) -> None:
        """Add a change. A client that reads too slowly for its queue gets a snapshot instead of the queue."""
        if len(self.changes) < QUEUE_LENGTH:
            self.changes.append((entry, watermark))
        else:
            self.changes.clear()
            self.needs_snapshot = True
        self.wake.set()

    def restart(self) -> None:
        """Forget what is in the snapshot that is sent now."""
        self.changes.clear()
        self.needs_snapshot = False

    async def is_woken(self, seconds: float) -> bool:
        """Wait for a change or the end; return False after so many seconds without either."""
        self.wake.clear()
        return await is_set_within(self.wake, seconds)


def _proven(fields: Mapping[str, JsonValue]) -> pb.WatchFlagsResponse:
    """Return what the settings of a caller have besides those of all."""
    values = {name: to_value(value) for name, value in fields.items()}
    return pb.WatchFlagsResponse(evaluation=pb.EvaluationSettings(requires=[PROVEN_CONTEXT], proven_context=values))


def evaluation_settings(context_values: Mapping[str, str]) -> pb.EvaluationSettings:
    """Return what decides evaluations on this server besides the flags. Headers' fields cannot be known in advance."""
    return pb.EvaluationSettings(
        requires=[RULES],
        context_values=context_values,
        max_context_bytes=MAX_CONTEXT_BYTES,
        max_context_values=MAX_CONTEXT_VALUES,
        max_context_depth=MAX_DEPTH,
    )


def change_to_message(entry: Entry, watermark: int) -> pb.WatchFlagsResponse:
    """Pack one change."""
    flag = None if entry.flag is None else flag_to_message(entry.flag)
    change = pb.FlagChange(flag_key=entry.id.key, revision=entry.revision, flag=flag)
    return pb.WatchFlagsResponse(change=change, resume_revision=watermark)
