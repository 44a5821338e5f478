"""What a watch yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flagsvc_client._engine.model import Flag
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.wire_flags import flag_of


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole flag set. It replaces everything received before and includes every change up to its revision."""

    flags: tuple[Flag, ...]
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One changed flag as it is now; `flag` is None if it was deleted."""

    key: str
    flag: Flag | None
    revision: int


WatchEvent = Snapshot | Change


class SnapshotPages:
    """Puts the pages of a stream's snapshots together. A snapshot that breaks off was never received."""

    def __init__(self) -> None:
        self._begun: pb.WatchFlagsResponse | None = None

    def add(self, message: pb.WatchFlagsResponse) -> pb.WatchFlagsResponse | None:
        """Return the message, a snapshot once it is whole; None for a page that others follow."""
        if self._begun is not None and message.HasField("snapshot"):
            self._begun.MergeFrom(message)  # adds the flags; the last page says that no other follows
            message = self._begun
        self._begun = message if message.HasField("snapshot") and message.snapshot.more else None
        return message if self._begun is None else None


def watch_event_of(message: pb.WatchFlagsResponse) -> WatchEvent | None:
    """Unpack one message; None for a heartbeat, and for a kind of event that a newer release added."""
    event: Any = message.WhichOneof("event")
    if event == "snapshot":
        return Snapshot(tuple(flag_of(flag) for flag in message.snapshot.flags), message.resume_revision)
    if event == "change":
        change = message.change
        return Change(change.flag_key, flag_of(change.flag) if change.HasField("flag") else None, change.revision)
    return None
